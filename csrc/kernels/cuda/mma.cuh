// Products on the matrix unit: each warp multiplies 16 x 16 by 16 x 8 elements of 16 bits and adds
// the result in float32. Who holds what: lane l of a warp is thread t = l % 4 of group g = l / 4.
//   a: rows g and g + 8, depth 2t, 2t + 1 and then 8 more: words (g, 2t), (g + 8, 2t), (g, 2t + 8),
//      (g + 8, 2t + 8)
//   b: column g, depth 2t, 2t + 1 and 2t + 8, 2t + 9
//   d: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
#pragma once

#include "number.cuh"

namespace fastconv::cuda {

// d += a * b.
template <class T>
FASTCONV_INLINE void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(__CUDA_ARCH__)
#define FASTCONV_MMA(type)                                                   \
  asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                 \
      ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                       \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
  if constexpr (sizeof(T) != 2) {
  } else if constexpr (kIsBFloat16<T>) {
    FASTCONV_MMA("bf16");
  } else {
    FASTCONV_MMA("f16");
  }
#undef FASTCONV_MMA
#elif defined(FASTCONV_EMULATED)
  struct Words {
    uint32_t a[4], b[2];
  };
  const Words mine{{a[0], a[1], a[2], a[3]}, {b0, b1}};
  Words all[32];
  emulator::gather(&mine, all, sizeof mine);
  const auto half = [](uint32_t word, int k) {
    return widen(T{uint16_t(k % 2 ? word >> 16 : word)});
  };
  const int group = threadIdx.x % 32 / 4, thread = threadIdx.x % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = group + i / 2 * 8, column = 2 * thread + i % 2;
    for (int k = 0; k < 16; ++k) {
      const int holder = k % 8 / 2;
      d[i] += half(all[row % 8 * 4 + holder].a[row / 8 + k / 8 * 2], k) *
              half(all[column * 4 + holder].b[k / 8], k);
    }
  }
#endif
}

// Four matrices of 8 x 8 elements from shared memory: lane l brings the address of row l % 8 of
// matrix l / 8, 16 bytes, and gets of each matrix j its elements (g, 2t) and (g, 2t + 1) in to[j];
// those of the transposed matrix where `transposed`.
template <bool transposed, class T>
FASTCONV_INLINE void load_matrices(uint32_t (&to)[4], const T* row) {
  static_assert(sizeof(T) == 2);
#if defined(__CUDA_ARCH__)
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
  }
#elif defined(FASTCONV_EMULATED)
  const T* rows[32];
  emulator::gather(&row, rows, sizeof row);
  const int group = threadIdx.x % 32 / 4, thread = threadIdx.x % 4;
  for (int j = 0; j < 4; ++j) {
    T pair[2];
    for (int i = 0; i < 2; ++i) {
      pair[i] =
          transposed ? rows[8 * j + 2 * thread + i][group] : rows[8 * j + group][2 * thread + i];
    }
    to[j] = pair[0].bits | uint32_t(pair[1].bits) << 16;
  }
#endif
}

// Two values as the word of their narrow forms, the first in the lower half, and back.
template <class T>
FASTCONV_INLINE uint32_t narrow_pair(float first, float second) {
#if defined(__CUDA_ARCH__)
  uint32_t word;
  if constexpr (kIsBFloat16<T>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  }
  return word;
#else
  return narrow<T>(first).bits | uint32_t(narrow<T>(second).bits) << 16;
#endif
}
template <class T>
FASTCONV_INLINE float widen_half(uint32_t word, int half) {
  return widen(T{uint16_t(half ? word >> 16 : word)});
}

// Until all threads of the warp are here, and see what the others wrote.
FASTCONV_INLINE void sync_warp() {
#if defined(__CUDA_ARCH__) || defined(FASTCONV_EMULATED)
  __syncwarp();
#endif
}

// Words (i, j) of thread i of a group of four become words (j, i): what the group holds of a row
// of a result, 4 bytes of each 16 a thread, becomes 16 bytes a thread, and back.
FASTCONV_INLINE void transpose_quad(uint32_t (&words)[4]) {
#if defined(__CUDA_ARCH__) || defined(FASTCONV_EMULATED)
  const int thread = threadIdx.x % 4;
#pragma unroll
  for (int bit = 1; bit <= 2; bit *= 2) {
    const bool upper = thread & bit;
#pragma unroll
    for (int low = 0; low < 4; ++low) {
      if (low & bit) continue;
      const int high = low | bit;
      const uint32_t got = __shfl_xor_sync(~0u, upper ? words[low] : words[high], bit);
      (upper ? words[low] : words[high]) = got;
    }
  }
#endif
}

}  // namespace fastconv::cuda
