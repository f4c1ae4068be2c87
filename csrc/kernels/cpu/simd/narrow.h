// Scalar conversions of the 16-bit types, used for single elements on every instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "../../common/types.h"

namespace fastconv::FASTCONV_ISA {

// Lanes first, ..., last - 1 of a vector; 0 <= first and last <= lanes, empty where last <= first.
struct LaneRange {
  int64_t first, last;
};

FASTCONV_INLINE uint32_t bits_of(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return u;
}

FASTCONV_INLINE float float_of(uint32_t u) {
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}

FASTCONV_INLINE float widen(float x) {
  return x;
}

FASTCONV_INLINE double widen(double x) {
  return x;
}

FASTCONV_INLINE float widen(bfloat16 x) {
  return float_of(uint32_t(x.bits) << 16);
}

FASTCONV_INLINE float widen(float16 x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000) << 16;
  const uint32_t magnitude = x.bits & 0x7fff;
  if (magnitude >= 0x7c00) return float_of(sign | 0x7f800000 | (magnitude << 13));
  // By integers: a float of these bits would be subnormal, which kernels read as zero.
  if (magnitude < 0x400) return float_of(sign | bits_of(float(magnitude) * 0x1p-24f));
  return float_of(sign | ((magnitude << 13) + 0x38000000));
}

FASTCONV_INLINE void narrow(float x, float* out) {
  *out = x;
}

FASTCONV_INLINE void narrow(double x, double* out) {
  *out = x;
}

FASTCONV_INLINE void narrow(float x, bfloat16* out) {
  const uint32_t u = bits_of(x);
  const bool is_nan = (u & 0x7fffffff) > 0x7f800000;
  out->bits = is_nan ? uint16_t((u >> 16) | 0x40) : uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

FASTCONV_INLINE void narrow(float x, float16* out) {
  const uint32_t u = bits_of(x);
  const uint16_t sign = uint16_t((u >> 16) & 0x8000);
  const uint32_t magnitude = u & 0x7fffffff;
  if (magnitude > 0x7f800000) {
    out->bits = uint16_t(sign | 0x7e00 | ((magnitude >> 13) & 0x3ff));
  } else if (magnitude >= 0x477ff000) {  // 65520, halfway to 65536, rounds to infinity
    out->bits = uint16_t(sign | 0x7c00);
  } else if (magnitude < 0x38800000) {  // below 2^-14: adding 0.5 rounds in units of 2^-24
    out->bits = uint16_t(sign | (bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f)));
  } else {
    out->bits = uint16_t(sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13));
  }
}

}  // namespace fastconv::FASTCONV_ISA
