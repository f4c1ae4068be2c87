// 32 lanes that compute in float16, for values known to fit: twice the lanes of float32, and three
// bits more than bfloat16 has.
//
//   load_half, store_half        float16 in memory
//   narrow_half(p)               of 32 floats
//   small_half(p, n, sizes)      of n bfloat16 within 2^7, the other lanes zero, to 2^-24; the
//                                largest bits of |p[i]| go to sizes
//   fma, min, max                as in simd.h, each rounded to float16
//   store_widened(p, a)          as bfloat16
//
// A processor with matrix tiles has instructions for this; in emulation each result is rounded by
// itself. Neither flushes subnormals.
#pragma once

#include "simd.h"
#include "tiles.h"

namespace fastconv::FASTCONV_ISA {

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

FASTCONV_INLINE void store_widened(bfloat16* p, VecH a) {
  const __m512 low = _mm512_cvtxph_ps(__m256h(_mm512_castsi512_si256(__m512i(a.v))));
  const __m512 high = _mm512_cvtxph_ps(__m256h(_mm512_extracti64x4_epi64(__m512i(a.v), 1)));
  _mm512_storeu_si512(p, __m512i(_mm512_cvtne2ps_pbh(high, low)));
}

#elif defined(FASTCONV_EMULATES_TILES)

struct VecSizes {
  uint16_t v[32];

  friend void store_sizes(float16* p, const VecSizes& a) { std::memcpy(p, a.v, sizeof a.v); }
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
  [[gnu::noinline]] friend void store_widened(bfloat16* p, const VecH& a) {
    for (int i = 0; i < kLanes; ++i) narrow(a.v[i], p + i);
  }
};

// Not found by the types of their arguments.
VecH load_half(const float16* p);
VecH narrow_half(const float* p);
VecH small_half(const bfloat16* p, int64_t n, VecSizes& sizes);

#endif

}  // namespace fastconv::FASTCONV_ISA
