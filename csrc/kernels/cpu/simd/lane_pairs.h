// Words for vectors whose neighbouring lanes belong together, AVX-512 alone.
#pragma once

#include "simd.h"

#if defined(__AVX512F__)

namespace fastconv::FASTCONV_ISA {

// Lanes 1, 3, 5, ... of a followed by b; even_lanes is in simd.h.
FASTCONV_INLINE VecF odd_lanes(VecF a, VecF b) {
  const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  return {_mm512_permutex2var_ps(a.v, odd, b.v)};
}

// p[0] in the even lanes, p[1] in the odd ones.
FASTCONV_INLINE VecF broadcast_pair(const float* p) {
  double pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return {_mm512_castpd_ps(_mm512_set1_pd(pair))};
}

}  // namespace fastconv::FASTCONV_ISA

#endif
