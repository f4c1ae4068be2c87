// The 1x1 convolutions of fused blocks: wider register tiles than gemm.h has.
#pragma once

#include "gemm.h"

namespace fastconv::FASTCONV_ISA {

// Where the vectors of a tile begin in a row of the weights, in elements from the first: packed
// panels may be narrower.
struct VectorPlaces {
  int64_t at[4];
};

// place(column): a pointer to the weight of an output channel in the first row.
template <class Place>
FASTCONV_INLINE VectorPlaces vector_places(int64_t first, int64_t columns, const Place& place) {
  VectorPlaces places{};
  const float* begin = place(first);
  for (int i = 1; i < 4 && i * kLanes<float> < columns; ++i) {
    places.at[i] = place(first + i * kLanes<float>) - begin;
  }
  return places;
}

// As gemm_tile, with the same bits, where a_depth is 1 and t.columns are three or four
// vectors; of other widths the vectors lie one behind the other. A tile alone, depth 16 / 32 / 64 /
// 160, fraction of the fma peak: 8 rows of three vectors 0.74 0.80 0.82 0.83, 6 of four 0.74 0.80
// 0.83 0.83, 14 of two 0.67 0.72 0.76 0.76, 7 of two by gemm_tile 0.58 0.67 0.73 (one core of an
// Intel Xeon with AMX).
void wide_tile(const GemmTile<float>& t, const VectorPlaces& places);

}  // namespace fastconv::FASTCONV_ISA
