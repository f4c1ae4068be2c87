// 32 lanes that compute in float16, for values known to fit: twice the lanes of float32, and three
// bits more than bfloat16 has.
//
//   load_half, store_half        float16 in memory
//   narrow_half(p)               of 32 floats
//   small_half(p, n, sizes)      of n bfloat16 within 2^7, the other lanes zero, to 2^-24; the
//                                largest bits of |p[i]| go to sizes
//   raise_sizes(sizes, p)        to the bits of |p[i]|, 32 of them
//   any_above(sizes, bits)       whether any is larger
//   fma, min, max                as in simd.h, each rounded to float16
//   store_clamped(p, a, up)      min(6, max(0, a / kClampScale)) as bfloat16, ties up or down; zero
//                                where a is below 2^-14, too small to have all digits; a is no NaN
//
// A processor with matrix tiles has instructions for this; in emulation each result is rounded by
// itself. Neither flushes subnormals.
#pragma once

#include "simd.h"
#include "tiles.h"

namespace fastconv::FASTCONV_ISA {

// What is stored clamped is zero below 2^-18, and sums of it may reach 2^12.
constexpr float kClampScale = 16;
// What 6 * kClampScale, in float16, lacks to the largest number of 16 bits, less what rounds its
// last three bits; and what that number, without those, lacks to 6 in bfloat16.
constexpr int16_t kToMost = 0x7fff - 0x5600 - 4, kFromMost = 0x40c0 - (0x7fff >> 3);
constexpr int16_t kLeastHalf = 0x0400;

#if defined(__AVX512FP16__)

struct VecH {
  static constexpr int kLanes = 32;
  __m512h v;
  static FASTCONV_INLINE VecH set1(float x) { return {_mm512_set1_ph(_Float16(x))}; }
};

FASTCONV_INLINE VecH load_half(const float16* p) {
  return {_mm512_loadu_ph(p)};
}
FASTCONV_INLINE void store_half(float16* p, VecH a) {
  _mm512_storeu_ph(p, a.v);
}
FASTCONV_INLINE VecH fma(VecH a, VecH b, VecH c) {
  return {_mm512_fmadd_ph(a.v, b.v, c.v)};
}
FASTCONV_INLINE VecH min(VecH a, VecH b) {
  return {_mm512_min_ph(a.v, b.v)};
}
FASTCONV_INLINE VecH max(VecH a, VecH b) {
  return {_mm512_max_ph(a.v, b.v)};
}
FASTCONV_INLINE VecH narrow_half(const float* p) {
  const __m256i low = __m256i(_mm512_cvtxps_ph(_mm512_loadu_ps(p)));
  const __m256i high = __m256i(_mm512_cvtxps_ph(_mm512_loadu_ps(p + 16)));
  return {__m512h(_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1))};
}

struct VecSizes {
  __m512i v;
};

FASTCONV_INLINE void store_sizes(float16* p, VecSizes a) {
  _mm512_storeu_si512(p, a.v);
}
FASTCONV_INLINE void raise_sizes(VecSizes& a, const float16* p) {
  const __m512i size = _mm512_set1_epi16(0x7fff);
  a.v = _mm512_max_epu16(a.v, _mm512_and_si512(_mm512_loadu_si512(p), size));
}
FASTCONV_INLINE bool any_above(VecSizes a, uint16_t bits) {
  return _mm512_cmpgt_epu16_mask(a.v, _mm512_set1_epi16(int16_t(bits))) != 0;
}
// By integers, as a number 2^8 times as large, whose exponent is in range.
FASTCONV_INLINE VecH small_half(const bfloat16* p, int64_t n, VecSizes& sizes) {
  const __mmask32 lanes = n >= 32 ? ~__mmask32{0} : (__mmask32{1} << n) - 1;
  const __m512i x = _mm512_maskz_loadu_epi16(lanes, p), sign = _mm512_set1_epi16(int16_t(0x8000));
  const __m512i size = _mm512_andnot_si512(sign, x);
  sizes.v = _mm512_max_epu16(sizes.v, size);
  const __m512i bits = _mm512_slli_epi16(_mm512_subs_epu16(size, _mm512_set1_epi16(104 << 7)), 3);
  const __m512i number = _mm512_or_si512(bits, _mm512_and_si512(x, sign));
  return {_mm512_mul_ph(__m512h(number), _mm512_set1_ph(_Float16(0x1p-8f)))};
}

// By integers: the sum stops at the largest number, which stands for 6, three bits of the fraction
// go, and the exponent moves. Seven vectors of two rows of a 3x3 window, clock ticks each:
// 8.6 by way of float32, 5.5 so (one core of an Intel Xeon with AMX).
FASTCONV_INLINE void store_clamped(bfloat16* p, VecH a, bool up) {
  const __m512i h = __m512i(a.v), sum = _mm512_adds_epi16(h, _mm512_set1_epi16(kToMost + up));
  const __mmask32 positive = _mm512_cmpge_epi16_mask(h, _mm512_set1_epi16(kLeastHalf));
  _mm512_storeu_si512(
      p, _mm512_maskz_add_epi16(positive, _mm512_srli_epi16(sum, 3), _mm512_set1_epi16(kFromMost)));
}

#elif defined(FASTCONV_EMULATES_TILES)

struct VecSizes {
  uint16_t v[32];

  friend void store_sizes(float16* p, const VecSizes& a) { std::memcpy(p, a.v, sizeof a.v); }
  friend void raise_sizes(VecSizes& a, const float16* p) {
    for (int i = 0; i < 32; ++i) a.v[i] = max_of(a.v[i], uint16_t(p[i].bits & 0x7fff));
  }
  friend bool any_above(const VecSizes& a, uint16_t bits) {
    for (uint16_t size : a.v) {
      if (size > bits) return true;
    }
    return false;
  }
};

// Calls, not inlined: unrolled kernels of such vectors take the compiler a quarter of an hour.
struct VecH {
  static constexpr int kLanes = 32;
  float v[kLanes];

  template <class F>
  [[gnu::noinline]] static VecH each(F&& lane) {
    VecH a;
    for (int i = 0; i < kLanes; ++i) {
      float16 half;
      narrow(lane(i), &half);
      a.v[i] = widen(half);
    }
    return a;
  }
  static VecH set1(float x) {
    return each([=](int) { return x; });
  }
  friend VecH load_half(const float16* p) {
    return each([=](int i) { return widen(p[i]); });
  }
  friend void store_half(float16* p, const VecH& a) {
    for (int i = 0; i < kLanes; ++i) narrow(a.v[i], p + i);
  }
  friend VecH narrow_half(const float* p) {
    return each([=](int i) { return p[i]; });
  }
  friend VecH fma(const VecH& a, const VecH& b, const VecH& c) {
    return each([&](int i) { return float(double(a.v[i]) * b.v[i] + c.v[i]); });
  }
  friend VecH min(const VecH& a, const VecH& b) {
    return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  friend VecH max(const VecH& a, const VecH& b) {
    return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  friend VecH small_half(const bfloat16* p, int64_t n, VecSizes& sizes) {
    return each([&](int i) {
      const uint16_t x = i < n ? p[i].bits : 0, size = x & 0x7fff;
      sizes.v[i] = max_of(sizes.v[i], size);
      float16 number;
      number.bits = uint16_t(max_of(size - (104 << 7), 0) << 3 | (x & 0x8000));
      return widen(number) * 0x1p-8f;
    });
  }
  [[gnu::noinline]] friend void store_clamped(bfloat16* p, const VecH& a, bool up) {
    for (int i = 0; i < kLanes; ++i) {
      float16 half;
      narrow(a.v[i], &half);
      const auto h = int16_t(half.bits);
      const int sum = min_of(h + kToMost + up, 0x7fff);
      p[i].bits = h >= kLeastHalf ? uint16_t((sum >> 3) + kFromMost) : 0;
    }
  }
};

// Not found by the types of their arguments.
VecH load_half(const float16* p);
VecH narrow_half(const float* p);
VecH small_half(const bfloat16* p, int64_t n, VecSizes& sizes);

#endif

}  // namespace fastconv::FASTCONV_ISA
