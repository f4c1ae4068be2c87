// When a result is written past the caches.
#pragma once

#include "simd/simd.h"

namespace fastconv::FASTCONV_ISA {

// A result beyond half the shared cache is gone from it before it is read, and storing it there
// reads its lines first. Pointwise 24 -> 144 of 50176 pixels, 28.9 MB: 224 GFLOP/s past the caches,
// 121 through them; 9.6 MB: no difference (one core, Zen 5). Depthwise input gradient
// 16x240x28x28 5x5 stride 2, 12 MB: 1.28 times torch past them, 1.42 through them (bench.goals).
// Separable 32 -> 64, 112x112, batch 16: 5.3 and 8.2 ms; from 4 MiB on such blocks gain 8 to 15 %,
// at the cost of the reader that then finds the result in no cache.
constexpr int64_t kStreamedBytes = 16 << 20;

// Whether every vector of channels_last pixels is stored so; they must be whole and aligned.
template <class T>
FASTCONV_INLINE bool wants_stream(const void* output, int64_t pixels, int64_t channels) {
  constexpr int64_t kVectorBytes = kLanes<T> * sizeof(T);
  const int64_t pixel_bytes = channels * sizeof(T);
  return pixels * pixel_bytes >= kStreamedBytes && pixel_bytes % kVectorBytes == 0 &&
         reinterpret_cast<uintptr_t>(output) % kVectorBytes == 0;
}

}  // namespace fastconv::FASTCONV_ISA
