// Products of matrices of 16-bit elements, by chunks of their depth that lie in shared memory.
#pragma once

#include "matrix_tile.h"
#include "mma.cuh"
#include "pack.cuh"

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

  FASTCONV_INLINE void activate(Activation activation) {
    dispatch_activation(activation, [&](auto act) {
      using Act = decltype(act);
#pragma unroll
      for (auto& row : values) {
#pragma unroll
        for (auto& tile : row) {
#pragma unroll
          for (float& value : tile) value = Act::forward(Rounded{value}).value;
        }
      }
    });
  }

  // f(tiles, half, row, column) for each row: the 32 columns from `first` on, of which a thread has
  // two in each of four tiles. It brings or takes the eight from `column` on, which lie together.
  template <class F>
  FASTCONV_INLINE void each_row(int first, const F& f) {
    const int group = threadIdx.x % 32 / 4, thread = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < kRows / 16; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        f(&values[i][first / 8], half, 16 * i + 8 * half + group, first + 8 * thread);
      }
    }
  }
};

using Words = Pack<uint32_t, 4>;

// output = activation(sums + residual), 16 bytes at a time. at(row, column): where the eight
// results from there lie in both, or -1 past the end. residual may be null.
template <class T, int kRows, int kColumns, class At>
FASTCONV_INLINE void write(Sums<kRows, kColumns>& sums, const T* residual, T* output,
                           Activation activation, const At& at) {
  if (residual) {
#pragma unroll
    for (int first = 0; first < kColumns; first += 32) {
      Words words[kRows / 8];  // some loads before the first use, and not too many registers
      int run = 0;
      sums.each_row(first, [&](auto*, int, int row, int column) {
        const int64_t from = at(row, column);
        words[run++] = from >= 0 ? *reinterpret_cast<const Words*>(residual + from) : Words{};
      });
      run = 0;
      sums.each_row(first, [&](auto* tiles, int half, int, int) {
        transpose_quad(words[run].values);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          tiles[i / 2][2 * half + i % 2] += widen_half<T>(words[run].values[i / 2], i % 2);
        }
        ++run;
      });
    }
  }
  dispatch_activation(activation, [&](auto act) {
    using Act = decltype(act);
#pragma unroll
    for (int first = 0; first < kColumns; first += 32) {
      sums.each_row(first, [&](auto* tiles, int half, int row, int column) {
        Words words;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const auto value = [&](int k) {
            return Act::forward(Rounded{tiles[i][2 * half + k]}).value;
          };
          words.values[i] = narrow_pair<T>(value(0), value(1));
        }
        transpose_quad(words.values);
        const int64_t to = at(row, column);
        if (to >= 0) store_pack(reinterpret_cast<uint32_t*>(output + to), words);
      });
    }
  });
}

}  // namespace fastconv::cuda
