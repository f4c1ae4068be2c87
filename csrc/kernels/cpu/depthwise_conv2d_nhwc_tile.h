// What the tiles of depthwise_conv2d_nhwc.cpp are told, and those of 3x3 windows that are compiled
// for where they lie.
#pragma once

#include <type_traits>

#include "depthwise_conv2d_paths.h"
#include "simd/register_tiles.h"
#include "simd/vectors.h"

namespace fastconv::FASTCONV_ISA {
namespace {

constexpr int kColumns = 7;  // maps are 7, 14, 28, 56 or 112 wide

// Two rows of accumulators and weights fit 32 vector registers, not 16. At stride 2 they hide the
// latency that 7 accumulators do not: 1x240x28x28 5x5 20.5 us with one row, 11.9 with two.
constexpr int kRows = kLanes<float> == 16 ? 2 : 1;

// What all tiles of a call share; steps in elements.
template <class T, class W>
struct Window {
  const W* weight;  // of T, or widened: see depthwise_conv2d_widens_weight
  const T* bias;
  int64_t pixel, input_row, output_row;
  Activation activation;
  bool streams, prefetches;
};

// One tile at channel 0.
template <class T>
struct Place {
  const T* input;  // row and column 0 of what its window covers
  int64_t first_row, last_row, first_column, last_column;  // those inside the image
  T* output;
  int64_t rows, columns;  // of the output from here on
  const T* ahead;         // this tile's share of the rows that the tiles below read first
};

#if defined(__AVX512F__)

// Which of the rows and columns that a tile of 3x3 windows reads lie in the padding: the outermost.
template <bool kTop, bool kBottom, bool kLeft, bool kRight>
struct Padding {
  static constexpr bool top = kTop, bottom = kBottom, left = kLeft, right = kRight;
};

// Pixel i of a row, asked for in turn from 0 on: `at` moves on by three. Where g++ sees the
// addresses of all of them it keeps more than there are registers.
template <class P>
FASTCONV_INLINE P* pixel_of_row(P*& at, int i, int64_t pixel, int64_t three_pixels) {
  if (i > 0 && i % 3 == 0) at += three_pixels;
  if (i % 3 == 0) forget_origin(at);
  return at + i % 3 * pixel;
}

// As prefetch, but a store to that line need not ask again. Every processor with AVX-512 has the
// instruction, which g++ takes for a set of its own.
FASTCONV_INLINE void prefetch_to_write(const void* p) {
  asm volatile("prefetchw %0" ::"m"(*static_cast<const char*>(p)));
}

// The whole vectors of channels [c, last). Rows and columns are known to be there, and the
// lines of the result are asked for a tile ahead of its stores. On one core of an Intel Xeon with
// AMX, us by `tile` / so / with the result asked for: 1x192x28x28 11.3 / 11.4 / 10.3, 1x384x14x14
// 5.24 / 5.27 / 4.77, 1x240x28x28 of stride 2 4.76 / 4.62 / 4.56, 1x144x56x56 40.9 / - / 36.3; in
// L1 0.81 to 0.90 of the time, and 5 % less. What is left is the L2 cache's copying. Slower were
// blocks of 32 to 64 channels, walking down the rows with three of them in registers, prefetching
// the input.
template <int S, class Beyond, class T, class W>
void known_tiles(const Window<T, W>& window, const Place<T>& at, int64_t c, int64_t last) {
  constexpr int kInputs = (kColumns - 1) * S + 3, kInputRows = 3 + (kRows - 1) * S;
  int64_t pixel = window.pixel, three_pixels = 3 * pixel, input_row = window.input_row;
  const T* input = at.input + c + (Beyond::top ? input_row : 0);
  const W* weight = window.weight + c;
  const T* bias = window.bias ? window.bias + c : nullptr;
  T* output = at.output + c;
  // Never another thread's rows, which would lose them: 1x384x14x14 on two cores took 1.09 of the
  // time of `tile` so, and takes 0.93.
  T* const below = at.output + c + (at.rows >= 2 * kRows ? kRows * window.output_row : 0);
#pragma GCC unroll 1
  for (int64_t left = (last - c) / kLanes<T>; left > 0; --left) {
    forget_origin(input), forget_origin(weight), forget_origin(output);
    asm("" : "+r"(pixel), "+r"(three_pixels), "+r"(input_row));
    VecF acc[kRows * kColumns], w[3][3];
    const VecF start = bias ? load(bias) : VecF::set1(0);
#pragma GCC unroll 16
    for (int i = 0; i < kRows * kColumns; ++i) {
      acc[i] = start;
      keep_loaded(acc[i]);
    }
    const W* taps = weight;
#pragma GCC unroll 4
    for (int kh = 0; kh < 3; ++kh, taps += three_pixels) {
      const W* tap = taps;
#pragma GCC unroll 4
      for (int kw = 0; kw < 3; ++kw) {
        w[kh][kw] = load(pixel_of_row(tap, kw, pixel, three_pixels));
        keep_loaded(w[kh][kw]);
      }
    }
    T* next = left > 1 ? output + kLanes<T> : below;
#pragma GCC unroll 2
    for (int r = 0; r < kRows; ++r, next += window.output_row) {
      T* at_row = next;
#pragma GCC unroll 8
      for (int o = 0; o < kColumns; ++o) {
        prefetch_to_write(pixel_of_row(at_row, o, pixel, three_pixels));
      }
    }

    const T* row = input;
#pragma GCC unroll 8
    for (int i = Beyond::top; i < kInputRows - Beyond::bottom; ++i, row += input_row) {
      forget_origin(row);
      const T* at_row = row;
#pragma GCC unroll 16
      for (int j = 0; j < kInputs; ++j) {
        const T* place = pixel_of_row(at_row, j, pixel, three_pixels);
        if ((Beyond::left && j == 0) || (Beyond::right && j == kInputs - 1)) continue;
        VecF x = load(place);
        keep_loaded(x);
#pragma GCC unroll 2
        for (int r = 0; r < kRows; ++r) {
          const int kh = i - r * S;
          if (kh < 0 || kh >= 3) continue;
#pragma GCC unroll 8
          for (int o = 0; o < kColumns; ++o) {
            const int kw = j - o * S;
            if (kw >= 0 && kw < 3) accumulate(acc[r * kColumns + o], x, w[kh][kw]);
          }
        }
      }
    }

    activate(window.activation, acc);
    T* out = output;
#pragma GCC unroll 2
    for (int r = 0; r < kRows; ++r, out += window.output_row) {
      forget_origin(out);
      T* at_row = out;
#pragma GCC unroll 8
      for (int o = 0; o < kColumns; ++o) {
        store(pixel_of_row(at_row, o, pixel, three_pixels), acc[r * kColumns + o]);
      }
    }
    input += kLanes<T>, weight += kLanes<T>, output += kLanes<T>;
    if (bias) bias += kLanes<T>;
  }
}

// The first channel that is left to others.
template <int S, class T, class W>
int64_t tiles_at_known_places(const Window<T, W>& window, const Place<T>& at, int64_t c,
                              int64_t last) {
  constexpr int kInputs = (kColumns - 1) * S + 3, kInputRows = 3 + (kRows - 1) * S;
  const bool top = at.first_row > 0, bottom = at.last_row < kInputRows;
  const bool left = at.first_column > 0, right = at.last_column < kInputs;
  if (window.streams || window.prefetches || at.rows < kRows || at.columns < kColumns ||
      at.first_row > 1 || at.last_row < kInputRows - 1 || at.first_column > 1 ||
      at.last_column < kInputs - 1 || (top && bottom)) {
    return c;
  }
  const auto with_rows = [&](auto t, auto b) {
    if (left && right) return known_tiles<S, Padding<t, b, true, true>>(window, at, c, last);
    if (left) return known_tiles<S, Padding<t, b, true, false>>(window, at, c, last);
    if (right) return known_tiles<S, Padding<t, b, false, true>>(window, at, c, last);
    known_tiles<S, Padding<t, b, false, false>>(window, at, c, last);
  };
  const std::true_type yes;
  const std::false_type no;
  top ? with_rows(yes, no) : bottom ? with_rows(no, yes) : with_rows(no, no);
  return c + (last - c) / kLanes<T> * kLanes<T>;
}

#else

template <int S, class T, class W>
int64_t tiles_at_known_places(const Window<T, W>&, const Place<T>&, int64_t c, int64_t) {
  return c;
}

#endif

}  // namespace
}  // namespace fastconv::FASTCONV_ISA
