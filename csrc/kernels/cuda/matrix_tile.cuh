// Products of matrices of 16-bit elements, by chunks of their depth that lie in shared memory.
#pragma once

#include "matrix_tile.h"
#include "mma.cuh"

namespace fastconv::cuda {

// A chunk of an operand: its lines are rows of the left operand, columns of the right one.
template <class T>
struct Operand {
  const T* tile;
  int pitch;
  bool depth_last;  // (line, depth) in memory, else (depth, line)
};

// The fragment of 16 lines x 16 deep; `left` says which operand's.
template <bool left, class T>
FASTCONV_INLINE void load_fragment(uint32_t (&to)[4], const Operand<T>& from, int line, int depth) {
  const int lane = threadIdx.x % 32, row = lane % 8;
  const int first = lane / 8 % 2 * 8, second = lane / 16 * 8;
  const int lines = line + (left ? first : second), deep = depth + (left ? second : first);
  if (from.depth_last) {
    load_matrices<false>(to, from.tile + (lines + row) * from.pitch + deep);
  } else {
    load_matrices<true>(to, from.tile + (deep + row) * from.pitch + lines);
  }
}

// What a warp sums: kRows x kColumns results from (row, column) on.
template <int kRows, int kColumns>
struct Sums {
  static_assert(kRows % 16 == 0 && kColumns % 16 == 0);
  float values[kRows / 16][kColumns / 8][4];

  FASTCONV_INLINE void clear() {
#pragma unroll
    for (auto& row : values) {
#pragma unroll
      for (auto& tile : row) tile[0] = tile[1] = tile[2] = tile[3] = 0;
    }
  }

  // Adds the product over `depth` of the chunk.
  template <class T>
  FASTCONV_INLINE void add(const Operand<T>& left, int row, const Operand<T>& right, int column,
                           int depth) {
#pragma unroll
    for (int k = 0; k < kChunk; k += 16) {
      if (k >= depth) break;
      uint32_t a[kRows / 16][4];
#pragma unroll
      for (int i = 0; i < kRows / 16; ++i) load_fragment<true>(a[i], left, row + 16 * i, k);
#pragma unroll
      for (int j = 0; j < kColumns / 16; ++j) {
        uint32_t b[4];
        load_fragment<false>(b, right, column + 16 * j, k);
#pragma unroll
        for (int i = 0; i < kRows / 16; ++i) {
          multiply_add<T>(values[i][2 * j], a[i], b[0], b[1]);
          multiply_add<T>(values[i][2 * j + 1], a[i], b[2], b[3]);
        }
      }
    }
  }
};

}  // namespace fastconv::cuda
