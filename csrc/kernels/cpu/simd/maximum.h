// max_or_nan(a, b): the larger, NaN where either is. The max of simd.h takes b there.
#pragma once

#include "simd.h"

namespace fastconv::FASTCONV_ISA {

#if defined(__AVX512F__)

FASTCONV_INLINE VecF max_or_nan(VecF a, VecF b) {
  return {_mm512_mask_max_ps(a.v, _mm512_cmp_ps_mask(a.v, a.v, _CMP_ORD_Q), a.v, b.v)};
}

FASTCONV_INLINE VecD max_or_nan(VecD a, VecD b) {
  return {_mm512_mask_max_pd(a.v, _mm512_cmp_pd_mask(a.v, a.v, _CMP_ORD_Q), a.v, b.v)};
}

#elif defined(__AVX2__)

FASTCONV_INLINE VecF max_or_nan(VecF a, VecF b) {
  return {_mm256_blendv_ps(max(a, b).v, a.v, _mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q))};
}

FASTCONV_INLINE VecD max_or_nan(VecD a, VecD b) {
  return {_mm256_blendv_pd(max(a, b).v, a.v, _mm256_cmp_pd(a.v, a.v, _CMP_UNORD_Q))};
}

#else

template <class S>
FASTCONV_INLINE Lane<S> max_or_nan(Lane<S> a, Lane<S> b) {
  return a.v > b.v || a.v != a.v ? a : b;
}

#endif

}  // namespace fastconv::FASTCONV_ISA
