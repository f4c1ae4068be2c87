// transpose(rows): a square block of kLanes vectors, rows and columns exchanged in registers.
#pragma once

#include "simd.h"

namespace fastconv::FASTCONV_ISA {

#if defined(__AVX512F__)

FASTCONV_INLINE void transpose(VecF (&rows)[16]) {
  __m512 a[16], b[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_ps(rows[i].v, rows[i + 1].v);
    a[i + 1] = _mm512_unpackhi_ps(rows[i].v, rows[i + 1].v);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __m512d x = _mm512_castps_pd(a[i + j]), y = _mm512_castps_pd(a[i + j + 2]);
      b[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
      b[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
    }
  }
  // b[4 i + j] holds, in its 128-bit lane l, column 4 l + j of rows 4 i to 4 i + 3.
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512 even_low = _mm512_shuffle_f32x4(b[j], b[4 + j], 0x88);
    const __m512 odd_low = _mm512_shuffle_f32x4(b[j], b[4 + j], 0xdd);
    const __m512 even_high = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0x88);
    const __m512 odd_high = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0xdd);
    rows[j].v = _mm512_shuffle_f32x4(even_low, even_high, 0x88);
    rows[4 + j].v = _mm512_shuffle_f32x4(odd_low, odd_high, 0x88);
    rows[8 + j].v = _mm512_shuffle_f32x4(even_low, even_high, 0xdd);
    rows[12 + j].v = _mm512_shuffle_f32x4(odd_low, odd_high, 0xdd);
  }
}

FASTCONV_INLINE void transpose(VecD (&rows)[8]) {
  __m512d a[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm512_unpacklo_pd(rows[i].v, rows[i + 1].v);
    a[i + 1] = _mm512_unpackhi_pd(rows[i].v, rows[i + 1].v);
  }
  // a[2 i + j] holds, in its 128-bit lane l, column 2 l + j of rows 2 i and 2 i + 1.
#pragma GCC unroll 2
  for (int j = 0; j < 2; ++j) {
    const __m512d even_low = _mm512_shuffle_f64x2(a[j], a[2 + j], 0x88);
    const __m512d odd_low = _mm512_shuffle_f64x2(a[j], a[2 + j], 0xdd);
    const __m512d even_high = _mm512_shuffle_f64x2(a[4 + j], a[6 + j], 0x88);
    const __m512d odd_high = _mm512_shuffle_f64x2(a[4 + j], a[6 + j], 0xdd);
    rows[j].v = _mm512_shuffle_f64x2(even_low, even_high, 0x88);
    rows[2 + j].v = _mm512_shuffle_f64x2(odd_low, odd_high, 0x88);
    rows[4 + j].v = _mm512_shuffle_f64x2(even_low, even_high, 0xdd);
    rows[6 + j].v = _mm512_shuffle_f64x2(odd_low, odd_high, 0xdd);
  }
}

#elif defined(__AVX2__)

FASTCONV_INLINE void transpose(VecF (&rows)[8]) {
  __m256 a[8], b[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_ps(rows[i].v, rows[i + 1].v);
    a[i + 1] = _mm256_unpackhi_ps(rows[i].v, rows[i + 1].v);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __m256d x = _mm256_castps_pd(a[i + j]), y = _mm256_castps_pd(a[i + j + 2]);
      b[i + 2 * j] = _mm256_castpd_ps(_mm256_unpacklo_pd(x, y));
      b[i + 2 * j + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(x, y));
    }
  }
  // b[4 i + j] holds, in its 128-bit lane l, column 4 l + j of rows 4 i to 4 i + 3.
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    rows[j].v = _mm256_permute2f128_ps(b[j], b[4 + j], 0x20);
    rows[4 + j].v = _mm256_permute2f128_ps(b[j], b[4 + j], 0x31);
  }
}

FASTCONV_INLINE void transpose(VecD (&rows)[4]) {
  const __m256d even01 = _mm256_unpacklo_pd(rows[0].v, rows[1].v);
  const __m256d odd01 = _mm256_unpackhi_pd(rows[0].v, rows[1].v);
  const __m256d even23 = _mm256_unpacklo_pd(rows[2].v, rows[3].v);
  const __m256d odd23 = _mm256_unpackhi_pd(rows[2].v, rows[3].v);
  rows[0].v = _mm256_permute2f128_pd(even01, even23, 0x20);
  rows[1].v = _mm256_permute2f128_pd(odd01, odd23, 0x20);
  rows[2].v = _mm256_permute2f128_pd(even01, even23, 0x31);
  rows[3].v = _mm256_permute2f128_pd(odd01, odd23, 0x31);
}

#else

template <class V>
FASTCONV_INLINE void transpose(V (&)[1]) {}

#endif

}  // namespace fastconv::FASTCONV_ISA
