// Some pixels of an output row by some vectors of channels, summed in registers.
#pragma once

#include <utility>

#include "gemm.h"

namespace fastconv::FASTCONV_ISA {

// Accumulators, a row of weights and a broadcast fill the registers: 14 * 2 + 2 + 1 of AVX-512's 32,
// 6 * 2 + 2 + 1 of AVX2's 16; wide tiles have three vectors of columns.
#if defined(__AVX512F__)
constexpr int kStemRows = 14, kWideStemRows = 9;
#elif defined(__AVX2__)
constexpr int kStemRows = 6, kWideStemRows = 4;
#else
constexpr int kStemRows = 4, kWideStemRows = 2;
#endif

// c[i][j] = min(high, max(low, bias[j] + sum over the taps of image[offset + i] * weight[j])).
template <class S>
struct StemTile {
  const S* image;
  const int64_t* offsets;  // of the taps, from image to what they read for the first row
  int64_t taps;
  const S* weight;        // (taps, columns)
  int64_t weight_row;     // elements from a tap to the next
  const S* bias;          // (columns) or null
  S* c;                   // (rows, columns)
  int64_t c_row;          // elements from a row of c to the next
  int64_t rows, columns;  // rows <= kStemRows, columns <= kTileColumns<S>
  S low, high;
  bool streams;  // past the caches: then c and c_row are whole vectors from address 0
};

template <class S, int MR, int NV>
static void tile_in_registers(const StemTile<S>& t) {
  using V = vec_t<S>;
  constexpr int L = V::kLanes;
  const int64_t last = t.columns - (NV - 1) * L;  // lanes of the last vector in use

  V acc[MR][NV];
  V start[NV];
  for (int j = 0; j < NV; ++j) start[j] = V::set1(0);
  if (t.bias != nullptr) {
    for (int j = 0; j + 1 < NV; ++j) start[j] = load(t.bias + j * L);
    start[NV - 1] = load_partial(t.bias + (NV - 1) * L, last);
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) acc[i][j] = start[j];
  }

  const S* weight = t.weight;
  for (int64_t tap = 0; tap < t.taps; ++tap) {
    const S* pixels = t.image + t.offsets[tap];
    V w[NV];
    for (int j = 0; j + 1 < NV; ++j) w[j] = load(weight + j * L);
    w[NV - 1] = load_partial(weight + (NV - 1) * L, last);
    weight += t.weight_row;
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const V x = V::set1(pixels[i]);
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) acc[i][j] = fma(x, w[j], acc[i][j]);
    }
  }

  const V low = V::set1(t.low), high = V::set1(t.high);
  if (last == L && !t.streams) {  // most tiles: no branch a vector
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) {
        store(t.c + i * t.c_row + j * L, min(high, max(low, acc[i][j])));
      }
    }
    return;
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
    S* c = t.c + i * t.c_row;
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      const V z = min(high, max(low, acc[i][j]));
      if (t.streams) {
        stream(c + j * L, z);
      } else {
        store_partial(c + j * L, z, j + 1 < NV ? L : last);
      }
    }
  }
}

template <class S, int NV, int... i>
static void choose_stem_rows(const StemTile<S>& t, std::integer_sequence<int, i...>) {
  using Function = void (*)(const StemTile<S>&);
  static constexpr Function kInstances[] = {tile_in_registers<S, i + 1, NV>...};
  kInstances[t.rows - 1](t);
}

template <class S>
static void stem_tile(const StemTile<S>& t) {
  constexpr int L = kLanes<S>;
  constexpr auto kRows = std::make_integer_sequence<int, kStemRows>{};
  constexpr auto kWideRows = std::make_integer_sequence<int, kWideStemRows>{};
  if (t.columns <= L) return choose_stem_rows<S, 1>(t, kRows);
  if (t.columns <= 2 * L) return choose_stem_rows<S, 2>(t, kRows);
  choose_stem_rows<S, 3>(t, kWideRows);
}

}  // namespace fastconv::FASTCONV_ISA
