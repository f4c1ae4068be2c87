// Element types, layouts and small integer helpers shared by all kernels.
#pragma once

#include <cstdint>

#include "macros.h"

namespace fastconv {

enum class DType : int8_t { kFloat32, kFloat64, kBFloat16, kFloat16 };

FASTCONV_INLINE constexpr int64_t size_of(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

// Memory order of a 4-d activation; sizes are always given as (batch, channels, height, width).
enum class Layout : int8_t { kNCHW, kNHWC };

// Storage only: arithmetic happens in accumulate_t.
struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

template <class T>
struct accumulate {
  using type = float;
};
template <>
struct accumulate<double> {
  using type = double;
};
template <class T>
using accumulate_t = typename accumulate<T>::type;

template <class Int>
FASTCONV_INLINE constexpr Int div_up(Int a, Int b) {
  return (a + b - 1) / b;
}

template <class T>
FASTCONV_INLINE constexpr T min_of(T a, T b) {
  return b < a ? b : a;
}

template <class T>
FASTCONV_INLINE constexpr T max_of(T a, T b) {
  return a < b ? b : a;
}

}  // namespace fastconv
