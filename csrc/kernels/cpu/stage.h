// Copies a block of a matrix into scratch, widened to the type that computes.
#pragma once

#include <type_traits>

#include "simd/simd.h"
#include "simd/transpose.h"

namespace fastconv::FASTCONV_ISA {

// Whether T is stored narrower than it is computed with.
template <class T>
constexpr bool kWidens = !std::is_same_v<T, accumulate_t<T>>;

template <class T>
FASTCONV_INLINE void stage_row(const T* from, accumulate_t<T>* to, int64_t columns) {
  constexpr int L = kLanes<T>;
  int64_t i = 0;
  for (; i + L <= columns; i += L) store(to + i, load(from + i));
  if (i < columns) store_partial(to + i, load_partial(from + i, columns - i), columns - i);
}

// to[j][i] = from[i * from_row + j] for i < rows <= kLanes, j < columns <= kLanes.
template <class T>
FASTCONV_INLINE void stage_transposed_square(const T* from, int64_t from_row, accumulate_t<T>* to,
                                             int64_t to_row, int64_t rows, int64_t columns) {
  constexpr int L = kLanes<T>;
  vec_t<T> block[L];
  if (rows == L && columns == L) {
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) block[i] = load(from + i * from_row);
    transpose(block);
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) store(to + i * to_row, block[i]);
    return;
  }
  for (int i = 0; i < L; ++i) {
    block[i] = i < rows ? load_partial(from + i * from_row, columns) : vec_t<T>::set1(0);
  }
  transpose(block);
  for (int64_t i = 0; i < columns; ++i) store_partial(to + i * to_row, block[i], rows);
}

// to[i][j] = from[i * row_stride + j * column_stride] for i < rows, j < columns.
template <class T>
static void stage(const T* from, int64_t row_stride, int64_t column_stride, accumulate_t<T>* to,
                  int64_t to_row, int64_t rows, int64_t columns) {
  constexpr int64_t L = kLanes<T>;
  if (column_stride == 1) {
    for (int64_t i = 0; i < rows; ++i) stage_row(from + i * row_stride, to + i * to_row, columns);
  } else if (row_stride == 1) {
    for (int64_t j = 0; j < columns; j += L) {
      for (int64_t i = 0; i < rows; i += L) {
        stage_transposed_square(from + i + j * column_stride, column_stride, to + i * to_row + j,
                                to_row, min_of(L, columns - j), min_of(L, rows - i));
      }
    }
  } else {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < columns; ++j) {
        to[i * to_row + j] = widen(from[i * row_stride + j * column_stride]);
      }
    }
  }
}

}  // namespace fastconv::FASTCONV_ISA
