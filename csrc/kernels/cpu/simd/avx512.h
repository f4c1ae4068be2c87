// The vocabulary of simd.h for AVX-512 F, BW, DQ and VL: 16 floats or 8 doubles.
#pragma once

#include <immintrin.h>

#include "narrow.h"

namespace fastconv::FASTCONV_ISA {

FASTCONV_INLINE __mmask16 first_lanes(int64_t n) {
  return __mmask16((1u << n) - 1u);
}

struct VecF {
  static constexpr int kLanes = 16;
  using scalar = float;
  using Mask = __mmask16;
  __m512 v;
  static FASTCONV_INLINE VecF set1(float x) { return {_mm512_set1_ps(x)}; }
  static FASTCONV_INLINE Mask mask(LaneRange r) {
    return Mask(first_lanes(r.last) & ~first_lanes(r.first));
  }
};

// whole + fraction is a number, whole integral and 0 <= fraction < 1.
struct Split {
  VecF whole, fraction;
};

struct VecD {
  static constexpr int kLanes = 8;
  using scalar = double;
  using Mask = __mmask8;
  __m512d v;
  static FASTCONV_INLINE VecD set1(double x) { return {_mm512_set1_pd(x)}; }
  static FASTCONV_INLINE Mask mask(LaneRange r) {
    return Mask(first_lanes(r.last) & ~first_lanes(r.first));
  }
};

#define FASTCONV_AVX512_ARITHMETIC(V, suffix)                                                      \
  FASTCONV_INLINE V operator+(V a, V b) {                                                          \
    return {_mm512_add_##suffix(a.v, b.v)};                                                        \
  }                                                                                                \
  FASTCONV_INLINE V operator-(V a, V b) {                                                          \
    return {_mm512_sub_##suffix(a.v, b.v)};                                                        \
  }                                                                                                \
  FASTCONV_INLINE V operator*(V a, V b) {                                                          \
    return {_mm512_mul_##suffix(a.v, b.v)};                                                        \
  }                                                                                                \
  FASTCONV_INLINE V operator/(V a, V b) {                                                          \
    return {_mm512_div_##suffix(a.v, b.v)};                                                        \
  }                                                                                                \
  FASTCONV_INLINE V fma(V a, V b, V c) {                                                           \
    return {_mm512_fmadd_##suffix(a.v, b.v, c.v)};                                                 \
  }                                                                                                \
  FASTCONV_INLINE V min(V a, V b) {                                                                \
    return {_mm512_min_##suffix(a.v, b.v)};                                                        \
  }                                                                                                \
  FASTCONV_INLINE V max(V a, V b) {                                                                \
    return {_mm512_max_##suffix(a.v, b.v)};                                                        \
  }                                                                                                \
  FASTCONV_INLINE V sqrt(V a) {                                                                    \
    return {_mm512_sqrt_##suffix(a.v)};                                                            \
  }                                                                                                \
  FASTCONV_INLINE V::scalar reduce_add(V a) {                                                      \
    return _mm512_reduce_add_##suffix(a.v);                                                        \
  }                                                                                                \
  FASTCONV_INLINE V zero_where_le(V v, V a, V b) {                                                 \
    return {_mm512_maskz_mov_##suffix(_mm512_cmp_##suffix##_mask(a.v, b.v, _CMP_NLE_UQ), v.v)};    \
  }                                                                                                \
  FASTCONV_INLINE V select_lt(V a, V b, V x, V y) {                                                \
    return {_mm512_mask_mov_##suffix(y.v, _mm512_cmp_##suffix##_mask(a.v, b.v, _CMP_LT_OQ), x.v)}; \
  }
FASTCONV_AVX512_ARITHMETIC(VecF, ps)
FASTCONV_AVX512_ARITHMETIC(VecD, pd)
#undef FASTCONV_AVX512_ARITHMETIC

FASTCONV_INLINE __m512 widen_bfloat16(__m256i x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

#if defined(__AVX512BF16__)
// Takes subnormals for zero, as every kernel does.
FASTCONV_INLINE __m256i narrow_bfloat16(__m512 x) {
  return __m256i(_mm512_cvtneps_pbh(x));
}
#else
FASTCONV_INLINE __m256i narrow_bfloat16(__m512 x) {
  const __m512i u = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
  // A NaN of either kind (the table's classes 0 and 1) becomes the quiet NaN of x (answer 2).
  const __m512 kept =
      _mm512_fixupimm_ps(_mm512_castsi512_ps(rounded), x, _mm512_set1_epi32(0x22), 0);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(kept), 16));
}
#endif

FASTCONV_INLINE __m256i narrow_float16(__m512 x) {
  return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

FASTCONV_INLINE VecF load(const float* p) {
  return {_mm512_loadu_ps(p)};
}

FASTCONV_INLINE VecF load(const bfloat16* p) {
  return {widen_bfloat16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}

FASTCONV_INLINE VecF load(const float16* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}

FASTCONV_INLINE VecD load(const double* p) {
  return {_mm512_loadu_pd(p)};
}

FASTCONV_INLINE VecF load_partial(const float* p, int64_t n) {
  return {_mm512_maskz_loadu_ps(first_lanes(n), p)};
}

FASTCONV_INLINE VecF load_partial(const bfloat16* p, int64_t n) {
  return {widen_bfloat16(_mm256_maskz_loadu_epi16(first_lanes(n), p))};
}

FASTCONV_INLINE VecF load_partial(const float16* p, int64_t n) {
  return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n), p))};
}

FASTCONV_INLINE VecD load_partial(const double* p, int64_t n) {
  return {_mm512_maskz_loadu_pd(__mmask8(first_lanes(n)), p)};
}

FASTCONV_INLINE void store(float* p, VecF a) {
  _mm512_storeu_ps(p, a.v);
}

FASTCONV_INLINE void store(bfloat16* p, VecF a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_bfloat16(a.v));
}

FASTCONV_INLINE void store(float16* p, VecF a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_float16(a.v));
}

FASTCONV_INLINE void store(double* p, VecD a) {
  _mm512_storeu_pd(p, a.v);
}

FASTCONV_INLINE void store_partial(float* p, VecF a, int64_t n) {
  _mm512_mask_storeu_ps(p, first_lanes(n), a.v);
}

FASTCONV_INLINE void store_partial(bfloat16* p, VecF a, int64_t n) {
  _mm256_mask_storeu_epi16(p, first_lanes(n), narrow_bfloat16(a.v));
}

FASTCONV_INLINE void store_partial(float16* p, VecF a, int64_t n) {
  _mm256_mask_storeu_epi16(p, first_lanes(n), narrow_float16(a.v));
}

FASTCONV_INLINE void store_partial(double* p, VecD a, int64_t n) {
  _mm512_mask_storeu_pd(p, __mmask8(first_lanes(n)), a.v);
}

FASTCONV_INLINE VecF load_range(const float* p, VecF::Mask m) {
  return {_mm512_maskz_loadu_ps(m, p)};
}

FASTCONV_INLINE VecF load_range(const bfloat16* p, VecF::Mask m) {
  return {widen_bfloat16(_mm256_maskz_loadu_epi16(m, p))};
}

FASTCONV_INLINE VecF load_range(const float16* p, VecF::Mask m) {
  return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, p))};
}

FASTCONV_INLINE VecD load_range(const double* p, VecD::Mask m) {
  return {_mm512_maskz_loadu_pd(m, p)};
}

FASTCONV_INLINE VecF fma_range(VecF a, VecF b, VecF c, VecF::Mask m) {
  return {_mm512_mask3_fmadd_ps(a.v, b.v, c.v, m)};
}

FASTCONV_INLINE VecD fma_range(VecD a, VecD b, VecD c, VecD::Mask m) {
  return {_mm512_mask3_fmadd_pd(a.v, b.v, c.v, m)};
}

FASTCONV_INLINE VecF even_lanes(VecF a, VecF b) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  return {_mm512_permutex2var_ps(a.v, even, b.v)};
}

FASTCONV_INLINE VecD even_lanes(VecD a, VecD b) {
  const __m512i even = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
  return {_mm512_permutex2var_pd(a.v, even, b.v)};
}

FASTCONV_INLINE VecF permute(VecF a, const int32_t* lane) {
  return {_mm512_permutexvar_ps(_mm512_loadu_si512(lane), a.v)};
}

FASTCONV_INLINE VecD permute(VecD a, const int32_t* lane) {
  const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lane));
  return {_mm512_permutexvar_pd(_mm512_cvtepi32_epi64(words), a.v)};
}

FASTCONV_INLINE VecF load_twice(const float* p, int64_t n) {
  const __m256 half = _mm256_maskz_loadu_ps(__mmask8(first_lanes(n)), p);
  return {_mm512_broadcast_f32x8(half)};
}

FASTCONV_INLINE VecF halves(VecF a, VecF b) {
  return {_mm512_mask_mov_ps(a.v, 0xff00, b.v)};
}

FASTCONV_INLINE VecF upper_half(VecF a) {
  return {_mm512_shuffle_f32x4(a.v, a.v, _MM_SHUFFLE(3, 2, 3, 2))};
}

FASTCONV_INLINE void stream(float* p, VecF a) {
  _mm512_stream_ps(p, a.v);
}

FASTCONV_INLINE void stream(bfloat16* p, VecF a) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), narrow_bfloat16(a.v));
}

FASTCONV_INLINE void stream(float16* p, VecF a) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), narrow_float16(a.v));
}

FASTCONV_INLINE void stream(double* p, VecD a) {
  _mm512_stream_pd(p, a.v);
}

FASTCONV_INLINE void stream_fence() {
  _mm_sfence();
}

// scale2 takes any number and its whole part alone, so that nothing is left to do for it here.
FASTCONV_INLINE Split split(VecF a) {
  constexpr int kFloor = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
  return {a, {_mm512_reduce_ps(a.v, kFloor)}};
}

// a * 2^floor(n); the exponent of a; the mantissa of a in [1, 2).
FASTCONV_INLINE VecF scale2(VecF a, VecF n) {
  return {_mm512_scalef_ps(a.v, n.v)};
}

FASTCONV_INLINE VecF exponent(VecF a) {
  return {_mm512_getexp_ps(a.v)};
}

FASTCONV_INLINE VecF mantissa(VecF a) {
  return {_mm512_getmant_ps(a.v, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src)};
}

// 1 / sqrt(a) for a > 0, to 14 bits.
FASTCONV_INLINE VecF approx_rsqrt(VecF a) {
  return {_mm512_rsqrt14_ps(a.v)};
}

// Flags 0xff: NaN, zero, infinite, subnormal or negative.
FASTCONV_INLINE bool all_positive_normal(VecF a) {
  return _mm512_fpclass_ps_mask(a.v, 0xff) == 0;
}

FASTCONV_INLINE bool all_positive_normal(VecD a) {
  return _mm512_fpclass_pd_mask(a.v, 0xff) == 0;
}

FASTCONV_INLINE VecF round(VecF a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

}  // namespace fastconv::FASTCONV_ISA
