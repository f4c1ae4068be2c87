// Two neighbouring elements, moved by one access and converted by one instruction each.
#pragma once

#include "pack.cuh"

namespace fastconv::cuda {

FASTCONV_INLINE void load_pair(const float* from, float* to) {
  const Pack<float, 2> pair = *reinterpret_cast<const Pack<float, 2>*>(from);
  to[0] = pair.values[0], to[1] = pair.values[1];
}

// As one word: a bfloat16 is the upper half of a float.
FASTCONV_INLINE void load_pair(const bfloat16* from, float* to) {
  const uint32_t word = *reinterpret_cast<const uint32_t*>(from);
  to[0] = bits_to_float(word << 16), to[1] = bits_to_float(word & 0xffff0000u);
}

FASTCONV_INLINE void load_pair(const float16* from, float* to) {
  const uint32_t word = *reinterpret_cast<const uint32_t*>(from);
#if defined(__CUDA_ARCH__)
  asm("{.reg .b16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high;}"
      : "=f"(to[0]), "=f"(to[1])
      : "r"(word));
#else
  to[0] = widen(float16{uint16_t(word)}), to[1] = widen(float16{uint16_t(word >> 16)});
#endif
}

FASTCONV_INLINE void store_pair(float* to, float first, float second) {
  *reinterpret_cast<Pack<float, 2>*>(to) = {{first, second}};
}

FASTCONV_INLINE void store_pair(bfloat16* to, float first, float second) {
#if defined(__CUDA_ARCH__)
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  *reinterpret_cast<uint32_t*>(to) = word;
#else
  *reinterpret_cast<Pack<bfloat16, 2>*>(to) = {{narrow<bfloat16>(first), narrow<bfloat16>(second)}};
#endif
}

FASTCONV_INLINE void store_pair(float16* to, float first, float second) {
#if defined(__CUDA_ARCH__)
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  *reinterpret_cast<uint32_t*>(to) = word;
#else
  *reinterpret_cast<Pack<float16, 2>*>(to) = {{narrow<float16>(first), narrow<float16>(second)}};
#endif
}

}  // namespace fastconv::cuda
