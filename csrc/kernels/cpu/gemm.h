// A panel of a matrix product, the arithmetic core of the pointwise convolution.
#pragma once

#include "simd/simd.h"

namespace fastconv::FASTCONV_ISA {

// c[i][j] = min(high, max(low, bias + sum over k of a[i][k] * b[k][j] + residual[i][j])).
// Each element is one chain of fma in the order of k, so its bits do not depend on the tiling.
template <class S>
struct GemmTile {
  const S* a;              // (rows, depth)
  int64_t a_row, a_depth;  // strides of a in elements; one of the two is 1
  // The depth of a may come in blocks of depth_block columns that lie together, a_block elements
  // from one to the next; depth_block 0: in one.
  int64_t depth_block, a_block;
  const S* b;            // (depth, columns)
  int64_t b_row;         // elements from a row of b to the next
  int64_t b_half;        // from the first two vectors of a row to the next two; 0: they follow
  const S* next_b;       // null, or the panel wanted next, to be fetched in the meantime
  const S* next_end;     // null, or where that ends if it has no gaps: fetched line after line
  S* c;                  // (rows, columns)
  int64_t c_row;         // elements from a row of c to the next
  const S* residual;     // (rows, columns) or null; may be c itself
  int64_t residual_row;  // elements from a row of residual to the next
  const S* bias;         // null, or one value a row, or one a column
  bool bias_is_per_row;
  int64_t rows, columns, depth;  // columns <= kMostColumns<S>
  S low, high;
  bool streams;  // past the caches: then c and c_row are whole vectors from address 0
};

// Columns are cut into panels of two vectors; where the number of vectors is odd the last panel
// takes three rather than leave one alone.
template <class S>
constexpr int64_t kPanelColumns = 2 * kLanes<S>;
template <class S>
constexpr int64_t kTileColumns = 3 * kLanes<S>;
template <class S>
constexpr int64_t kMostColumns = 4 * kLanes<S>;

// Rows of a register tile with two vectors of columns; gemm.cpp tells why, and of other widths.
#if defined(__AVX512F__)
constexpr int kTileRows = 7;
#elif defined(__AVX2__)
constexpr int kTileRows = 6;
#else
constexpr int kTileRows = 4;
#endif

struct Range {
  int64_t first, count;
};

template <class S, int64_t L = kLanes<S>>
FASTCONV_INLINE int64_t panel_count(int64_t columns) {
  return max_of<int64_t>(div_up<int64_t>(columns, L) / 2, 1);
}

template <class S, int64_t L = kLanes<S>>
FASTCONV_INLINE Range panel_at(int64_t panel, int64_t columns) {
  const int64_t first = panel * 2 * L;
  return {first, panel + 1 < panel_count<S, L>(columns) ? 2 * L : columns - first};
}

// Down more rows than this, two whole panels of 16 floats a vector are one product, in tiles of 6
// rows and four vectors: 10 loads for 24 fma, where 14 rows of two vectors have 16 for 28. Layers
// in a row, time with / without (two cores of an Intel Xeon with AMX, batch 1): 64 and 256
// channels, 56x56: 0.93, 128 and 512, 28x28: 0.97, 256 and 1024, 14x14: 0.95; separable 32 -> 64,
// 112x112: 0.87, 512, 14x14: 0.94; but where 49 rows leave few tiles to fetch the next panel: 512
// and 2048 1.04, separable 512 -> 1024 1.04, 1024 1.02.
constexpr int64_t kRowsOfPanels = 49;

template <class S>
FASTCONV_INLINE int64_t panel_pairs(int64_t rows, int64_t columns) {
  if (kLanes<S> != 16 || rows <= kRowsOfPanels) return 0;
  const int64_t panels = panel_count<S>(columns);
  const bool last_is_whole = panel_at<S>(panels - 1, columns).count == kPanelColumns<S>;
  return (last_is_whole ? panels : panels - 1) / 2;
}

// Part i of size elements cut into parts that differ by one at most.
FASTCONV_INLINE Range part_of(int64_t size, int64_t parts, int64_t i) {
  const int64_t first = i * size / parts;
  return {first, (i + 1) * size / parts - first};
}

FASTCONV_INLINE int64_t row_tile_count(int64_t rows) {
  return div_up<int64_t>(rows, kTileRows);
}

// Elements of a next_b without gaps that a register tile fetches: a vector in two steps, two where
// the tile has four vectors, which leave fewer tiles to fetch a panel twice as large. Weights
// from L3, two threads, 512 -> 512, 3x3, 7x7 pixels in us (an Intel Xeon with AMX): 948 where two
// tiles of four fetch it all, as those with gaps are, 853 so.
template <class S>
FASTCONV_INLINE int64_t fetched_by_tile(const GemmTile<S>& t) {
  return t.depth / 2 * kLanes<S> * (t.columns > kTileColumns<S> ? 2 : 1);
}
// And about as many as all tiles of a product.
template <class S>
FASTCONV_INLINE int64_t fetched_by_tiles(const GemmTile<S>& t) {
  return div_up<int64_t>(t.rows, 2 * kTileRows) * fetched_by_tile(t);
}

void gemm_tile(const GemmTile<float>& tile);
void gemm_tile(const GemmTile<double>& tile);

}  // namespace fastconv::FASTCONV_ISA
