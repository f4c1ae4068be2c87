// The vocabulary of simd.h for AVX2, FMA and F16C: 8 floats or 4 doubles.
#pragma once

#include <immintrin.h>

#include <cfloat>

#include "avx2_words.h"
#include "narrow.h"

namespace fastconv::FASTCONV_ISA {

FASTCONV_INLINE __m256i first_floats(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(int(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

FASTCONV_INLINE __m256i first_doubles(int64_t n) {
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
}

struct VecF {
  static constexpr int kLanes = 8;
  using scalar = float;
  struct Mask {
    LaneRange range;  // for the 16-bit types
    __m256i lanes;
  };
  __m256 v;
  static FASTCONV_INLINE VecF set1(float x) { return {_mm256_set1_ps(x)}; }
  static FASTCONV_INLINE Mask mask(LaneRange r) {
    return {r, _mm256_andnot_si256(first_floats(r.first), first_floats(r.last))};
  }
};

// whole + fraction is a number, whole integral and 0 <= fraction < 1.
struct Split {
  VecF whole, fraction;
};

struct VecD {
  static constexpr int kLanes = 4;
  using scalar = double;
  using Mask = __m256i;
  __m256d v;
  static FASTCONV_INLINE VecD set1(double x) { return {_mm256_set1_pd(x)}; }
  static FASTCONV_INLINE Mask mask(LaneRange r) {
    return _mm256_andnot_si256(first_doubles(r.first), first_doubles(r.last));
  }
};

#define FASTCONV_AVX2_ARITHMETIC(V, suffix)                                               \
  FASTCONV_INLINE V operator+(V a, V b) {                                                 \
    return {_mm256_add_##suffix(a.v, b.v)};                                               \
  }                                                                                       \
  FASTCONV_INLINE V operator-(V a, V b) {                                                 \
    return {_mm256_sub_##suffix(a.v, b.v)};                                               \
  }                                                                                       \
  FASTCONV_INLINE V operator*(V a, V b) {                                                 \
    return {_mm256_mul_##suffix(a.v, b.v)};                                               \
  }                                                                                       \
  FASTCONV_INLINE V operator/(V a, V b) {                                                 \
    return {_mm256_div_##suffix(a.v, b.v)};                                               \
  }                                                                                       \
  FASTCONV_INLINE V fma(V a, V b, V c) {                                                  \
    return {_mm256_fmadd_##suffix(a.v, b.v, c.v)};                                        \
  }                                                                                       \
  FASTCONV_INLINE V min(V a, V b) {                                                       \
    return {_mm256_min_##suffix(a.v, b.v)};                                               \
  }                                                                                       \
  FASTCONV_INLINE V max(V a, V b) {                                                       \
    return {_mm256_max_##suffix(a.v, b.v)};                                               \
  }                                                                                       \
  FASTCONV_INLINE V sqrt(V a) {                                                           \
    return {_mm256_sqrt_##suffix(a.v)};                                                   \
  }                                                                                       \
  FASTCONV_INLINE V zero_where_le(V v, V a, V b) {                                        \
    return {_mm256_and_##suffix(_mm256_cmp_##suffix(a.v, b.v, _CMP_NLE_UQ), v.v)};        \
  }                                                                                       \
  FASTCONV_INLINE V select_lt(V a, V b, V x, V y) {                                       \
    return {_mm256_blendv_##suffix(y.v, x.v, _mm256_cmp_##suffix(a.v, b.v, _CMP_LT_OQ))}; \
  }
FASTCONV_AVX2_ARITHMETIC(VecF, ps)
FASTCONV_AVX2_ARITHMETIC(VecD, pd)
#undef FASTCONV_AVX2_ARITHMETIC

FASTCONV_INLINE float reduce_add(VecF a) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

FASTCONV_INLINE double reduce_add(VecD a) {
  const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(a.v), _mm256_extractf128_pd(a.v, 1));
  return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

FASTCONV_INLINE VecF load(const float* p) {
  return {_mm256_loadu_ps(p)};
}

FASTCONV_INLINE VecF load(const bfloat16* p) {
  return {widen_bfloat16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}

FASTCONV_INLINE VecF load(const float16* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}

FASTCONV_INLINE VecD load(const double* p) {
  return {_mm256_loadu_pd(p)};
}

FASTCONV_INLINE VecF load_partial(const float* p, int64_t n) {
  return {_mm256_maskload_ps(p, first_floats(n))};
}

FASTCONV_INLINE VecF load_partial(const bfloat16* p, int64_t n) {
  return {widen_bfloat16(load_words(p, {0, n}))};
}

FASTCONV_INLINE VecF load_partial(const float16* p, int64_t n) {
  return {_mm256_cvtph_ps(load_words(p, {0, n}))};
}

FASTCONV_INLINE VecD load_partial(const double* p, int64_t n) {
  return {_mm256_maskload_pd(p, first_doubles(n))};
}

FASTCONV_INLINE void store(float* p, VecF a) {
  _mm256_storeu_ps(p, a.v);
}

FASTCONV_INLINE void store(bfloat16* p, VecF a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow_bfloat16(a.v));
}

FASTCONV_INLINE void store(float16* p, VecF a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow_float16(a.v));
}

FASTCONV_INLINE void store(double* p, VecD a) {
  _mm256_storeu_pd(p, a.v);
}

FASTCONV_INLINE void store_partial(float* p, VecF a, int64_t n) {
  _mm256_maskstore_ps(p, first_floats(n), a.v);
}

FASTCONV_INLINE void store_partial(bfloat16* p, VecF a, int64_t n) {
  store_words(p, narrow_bfloat16(a.v), n);
}

FASTCONV_INLINE void store_partial(float16* p, VecF a, int64_t n) {
  store_words(p, narrow_float16(a.v), n);
}

FASTCONV_INLINE void store_partial(double* p, VecD a, int64_t n) {
  _mm256_maskstore_pd(p, first_doubles(n), a.v);
}

FASTCONV_INLINE VecF load_range(const float* p, VecF::Mask m) {
  return {_mm256_maskload_ps(p, m.lanes)};
}

FASTCONV_INLINE VecF load_range(const bfloat16* p, VecF::Mask m) {
  return {widen_bfloat16(load_words(p, m.range))};
}

FASTCONV_INLINE VecF load_range(const float16* p, VecF::Mask m) {
  return {_mm256_cvtph_ps(load_words(p, m.range))};
}

FASTCONV_INLINE VecD load_range(const double* p, VecD::Mask m) {
  return {_mm256_maskload_pd(p, m)};
}

FASTCONV_INLINE VecF fma_range(VecF a, VecF b, VecF c, VecF::Mask m) {
  return {_mm256_blendv_ps(c.v, fma(a, b, c).v, _mm256_castsi256_ps(m.lanes))};
}

FASTCONV_INLINE VecD fma_range(VecD a, VecD b, VecD c, VecD::Mask m) {
  return {_mm256_blendv_pd(c.v, fma(a, b, c).v, _mm256_castsi256_pd(m))};
}

FASTCONV_INLINE VecF even_lanes(VecF a, VecF b) {
  const __m256d pairs = _mm256_castps_pd(_mm256_shuffle_ps(a.v, b.v, 0x88));
  return {_mm256_castpd_ps(_mm256_permute4x64_pd(pairs, 0xd8))};
}

FASTCONV_INLINE VecD even_lanes(VecD a, VecD b) {
  return {_mm256_permute4x64_pd(_mm256_unpacklo_pd(a.v, b.v), 0xd8)};
}

FASTCONV_INLINE VecF permute(VecF a, const int32_t* lane) {
  const __m256i lanes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lane));
  return {_mm256_permutevar8x32_ps(a.v, lanes)};
}

FASTCONV_INLINE VecD permute(VecD a, const int32_t* lane) {
  double lanes[4];
  _mm256_storeu_pd(lanes, a.v);
  return {_mm256_setr_pd(lanes[lane[0]], lanes[lane[1]], lanes[lane[2]], lanes[lane[3]])};
}

FASTCONV_INLINE void stream(float* p, VecF a) {
  _mm256_stream_ps(p, a.v);
}

FASTCONV_INLINE void stream(bfloat16* p, VecF a) {
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), narrow_bfloat16(a.v));
}

FASTCONV_INLINE void stream(float16* p, VecF a) {
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), narrow_float16(a.v));
}

FASTCONV_INLINE void stream(double* p, VecD a) {
  _mm256_stream_pd(p, a.v);
}

FASTCONV_INLINE void stream_fence() {
  _mm_sfence();
}

FASTCONV_INLINE Split split(VecF a) {
  const VecF bounded = max(VecF::set1(-151), min(VecF::set1(129), a));
  const VecF whole = {_mm256_floor_ps(bounded.v)};
  return {whole, bounded - whole};
}

// a * 2^n for integral n in [-252, 254]; the exponent of a normal a; its mantissa in [1, 2).
// Two factors, so that a result near the ends of the range neither overflows nor vanishes early.
FASTCONV_INLINE VecF scale2(VecF a, VecF n) {
  const __m256i whole = _mm256_cvtps_epi32(n.v);
  const __m256i half = _mm256_srai_epi32(whole, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256i low = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i high = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
  const __m256 product = _mm256_mul_ps(a.v, _mm256_castsi256_ps(low));
  return {_mm256_mul_ps(product, _mm256_castsi256_ps(high))};
}

FASTCONV_INLINE VecF exponent(VecF a) {
  const __m256i biased =
      _mm256_and_si256(_mm256_srli_epi32(_mm256_castps_si256(a.v), 23), _mm256_set1_epi32(0xff));
  return {_mm256_cvtepi32_ps(_mm256_sub_epi32(biased, _mm256_set1_epi32(127)))};
}

FASTCONV_INLINE VecF mantissa(VecF a) {
  const __m256 fraction = _mm256_and_ps(a.v, _mm256_castsi256_ps(_mm256_set1_epi32(0x807fffff)));
  return {_mm256_or_ps(fraction, _mm256_set1_ps(1.0f))};
}

// 1 / sqrt(a) for normal a > 0, to 11 bits.
FASTCONV_INLINE VecF approx_rsqrt(VecF a) {
  return {_mm256_rsqrt_ps(a.v)};
}

FASTCONV_INLINE bool all_positive_normal(VecF a) {
  const __m256 large = _mm256_cmp_ps(a.v, _mm256_set1_ps(FLT_MIN), _CMP_GE_OQ);
  const __m256 finite = _mm256_cmp_ps(a.v, _mm256_set1_ps(FLT_MAX), _CMP_LE_OQ);
  return _mm256_movemask_ps(_mm256_and_ps(large, finite)) == 0xff;
}

FASTCONV_INLINE bool all_positive_normal(VecD a) {
  const __m256d large = _mm256_cmp_pd(a.v, _mm256_set1_pd(DBL_MIN), _CMP_GE_OQ);
  const __m256d finite = _mm256_cmp_pd(a.v, _mm256_set1_pd(DBL_MAX), _CMP_LE_OQ);
  return _mm256_movemask_pd(_mm256_and_pd(large, finite)) == 0xf;
}

FASTCONV_INLINE VecF round(VecF a) {
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

}  // namespace fastconv::FASTCONV_ISA
