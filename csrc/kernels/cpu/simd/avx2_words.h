// 16-bit lanes on AVX2: access to a part of a vector, and conversion from and to float.
#pragma once

#include <immintrin.h>

#include "narrow.h"

namespace fastconv::FASTCONV_ISA {

// 16-bit lanes have no masked access before AVX-512. Not inlined: the loops would fill the tiles.
[[gnu::noinline, maybe_unused]] static __m128i load_words(const void* p, LaneRange r) {
  alignas(16) uint16_t words[8] = {};
  const auto* source = static_cast<const uint16_t*>(p);
  for (int64_t i = r.first; i < r.last; ++i) words[i] = source[i];
  return _mm_load_si128(reinterpret_cast<const __m128i*>(words));
}

[[gnu::noinline, maybe_unused]] static void store_words(void* p, __m128i x, int64_t n) {
  alignas(16) uint16_t words[8];
  _mm_store_si128(reinterpret_cast<__m128i*>(words), x);
  auto* target = static_cast<uint16_t*>(p);
  for (int64_t i = 0; i < n; ++i) target[i] = words[i];
}

FASTCONV_INLINE __m256 widen_bfloat16(__m128i x) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}

FASTCONV_INLINE __m128i narrow_bfloat16(__m256 x) {
  const __m256i u = _mm256_castps_si256(x);
  const __m256i high = _mm256_srli_epi32(u, 16);
  const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(u, bias), 16);
  const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i words = _mm256_blendv_epi8(rounded, quiet, is_nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

FASTCONV_INLINE __m128i narrow_float16(__m256 x) {
  return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

}  // namespace fastconv::FASTCONV_ISA
