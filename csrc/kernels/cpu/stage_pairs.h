// Lays rows of bfloat16 together two by two, as a tile of gemm_bfloat16.h reads them.
#pragma once

#include "stage.h"

namespace fastconv::FASTCONV_ISA {

FASTCONV_INLINE uint32_t pair_of(bfloat16 first, bfloat16 second) {
  return first.bits | uint32_t(second.bits) << 16;
}

// to[j] = the pair of first[j] and second[j].
FASTCONV_INLINE void zip(const bfloat16* first, const bfloat16* second, uint32_t* to,
                         int64_t columns) {
  constexpr int64_t kTogether = 16;  // a count that the compiler knows becomes one vector
  int64_t j = 0;
  for (; j + kTogether <= columns; j += kTogether) {
    for (int64_t k = j; k < j + kTogether; ++k) to[k] = pair_of(first[k], second[k]);
  }
  for (; j < columns; ++j) to[j] = pair_of(first[j], second[j]);
}

// to[p][j] = the pair of from[2p][j] and from[2p + 1][j] for 2p < rows, j < columns, strides of
// `from` in elements and to_row in pairs. A row that is missing at the end counts as zeros.
[[maybe_unused]] static void stage_pairs(const bfloat16* from, int64_t row_stride,
                                         int64_t column_stride, uint32_t* to, int64_t to_row,
                                         int64_t rows, int64_t columns) {
  const int64_t pairs = rows / 2;
  const bool aligned = reinterpret_cast<uintptr_t>(from) % 4 == 0;
  if (row_stride == 1 && column_stride != 1 && column_stride % 2 == 0 && aligned) {
    // The pairs lie together already: what is left is a transpose of 32-bit values.
    stage(reinterpret_cast<const float*>(from), 1, column_stride / 2, reinterpret_cast<float*>(to),
          to_row, pairs, columns);
  } else {
    for (int64_t p = 0; p < pairs; ++p) {
      const bfloat16* first = from + 2 * p * row_stride;
      const bfloat16* second = first + row_stride;
      uint32_t* row = to + p * to_row;
      if (column_stride == 1) {
        zip(first, second, row, columns);
      } else {
        for (int64_t j = 0; j < columns; ++j) {
          row[j] = pair_of(first[j * column_stride], second[j * column_stride]);
        }
      }
    }
  }
  if (rows % 2 != 0) {
    const bfloat16* last = from + 2 * pairs * row_stride;
    for (int64_t j = 0; j < columns; ++j) {
      to[pairs * to_row + j] = pair_of(last[j * column_stride], bfloat16{0});
    }
  }
}

}  // namespace fastconv::FASTCONV_ISA
