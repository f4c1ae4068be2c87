// Pairs of bfloat16: a lane of 32 bits holds two elements that follow one another in memory.
//
//   load_pairs, load_pairs_partial   memory -> pairs; partial reads n pairs, the others are zero
//   load_pairs_twice, halves         as load_twice and halves of simd.h (AVX-512 only)
//   set1_pair                        one pair in every lane
//   store_two(p, a, b)               a, then b, rounded to bfloat16; store_two_partial n of them
//   fma_pairs(a, b, c)               c + a.first * b.first + a.second * b.second in float32
//
// Where the processor has the instruction, subnormal operands and results count as zero.
#pragma once

#include "simd.h"

namespace fastconv::FASTCONV_ISA {

// Whether fma_pairs is one instruction; else it is two, and pairs must be widened for them.
#if defined(__AVX512BF16__)
constexpr bool kMultipliesPairs = true;
#else
constexpr bool kMultipliesPairs = false;
#endif

#if defined(__AVX512BF16__)

struct VecPairs {
  __m512i v;
};

FASTCONV_INLINE VecPairs load_pairs(const bfloat16* p) {
  return {_mm512_loadu_si512(p)};
}

FASTCONV_INLINE VecPairs load_pairs_partial(const bfloat16* p, int64_t n) {
  return {_mm512_maskz_loadu_epi32(first_lanes(n), p)};
}

FASTCONV_INLINE VecPairs set1_pair(const bfloat16* p) {
  int32_t pair;
  std::memcpy(&pair, p, 4);
  return {_mm512_set1_epi32(pair)};
}

FASTCONV_INLINE VecPairs load_pairs_twice(const bfloat16* p, int64_t n) {
  return {_mm512_broadcast_i32x8(_mm256_maskz_loadu_epi32(__mmask8(first_lanes(n)), p))};
}

FASTCONV_INLINE VecPairs halves(VecPairs a, VecPairs b) {
  return {_mm512_mask_mov_epi32(a.v, 0xff00, b.v)};
}

FASTCONV_INLINE VecF fma_pairs(VecPairs a, VecPairs b, VecF c) {
  return {_mm512_dpbf16_ps(c.v, __m512bh(a.v), __m512bh(b.v))};
}

FASTCONV_INLINE void store_two(bfloat16* p, VecF a, VecF b) {
  _mm512_storeu_si512(p, __m512i(_mm512_cvtne2ps_pbh(b.v, a.v)));
}

FASTCONV_INLINE void store_two_partial(bfloat16* p, VecF a, VecF b, int64_t n) {
  const __mmask32 lanes = n >= 32 ? ~__mmask32{0} : (__mmask32{1} << n) - 1;
  _mm512_mask_storeu_epi16(p, lanes, __m512i(_mm512_cvtne2ps_pbh(b.v, a.v)));
}

#else

// The two elements widened: the second by clearing the half of the first.
struct VecPairs {
  VecF first, second;
};

#if defined(__AVX512F__)
FASTCONV_INLINE VecPairs widen_pairs(__m512i x) {
  return {{_mm512_castsi512_ps(_mm512_slli_epi32(x, 16))},
          {_mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(int(0xffff0000))))}};
}

FASTCONV_INLINE VecPairs load_pairs(const bfloat16* p) {
  return widen_pairs(_mm512_loadu_si512(p));
}

FASTCONV_INLINE VecPairs load_pairs_partial(const bfloat16* p, int64_t n) {
  return widen_pairs(_mm512_maskz_loadu_epi32(first_lanes(n), p));
}

FASTCONV_INLINE VecPairs set1_pair(const bfloat16* p) {
  int32_t pair;
  std::memcpy(&pair, p, 4);
  return widen_pairs(_mm512_set1_epi32(pair));
}

FASTCONV_INLINE VecPairs load_pairs_twice(const bfloat16* p, int64_t n) {
  return widen_pairs(_mm512_broadcast_i32x8(_mm256_maskz_loadu_epi32(__mmask8(first_lanes(n)), p)));
}

FASTCONV_INLINE VecPairs halves(VecPairs a, VecPairs b) {
  return {halves(a.first, b.first), halves(a.second, b.second)};
}
#elif defined(__AVX2__)
FASTCONV_INLINE VecPairs widen_pairs(__m256i x) {
  return {{_mm256_castsi256_ps(_mm256_slli_epi32(x, 16))},
          {_mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(int(0xffff0000))))}};
}

FASTCONV_INLINE VecPairs load_pairs(const bfloat16* p) {
  return widen_pairs(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

FASTCONV_INLINE VecPairs load_pairs_partial(const bfloat16* p, int64_t n) {
  return widen_pairs(_mm256_castps_si256(load_partial(reinterpret_cast<const float*>(p), n).v));
}

FASTCONV_INLINE VecPairs set1_pair(const bfloat16* p) {
  int32_t pair;
  std::memcpy(&pair, p, 4);
  return widen_pairs(_mm256_set1_epi32(pair));
}
#else
FASTCONV_INLINE VecPairs load_pairs(const bfloat16* p) {
  return {{widen(p[0])}, {widen(p[1])}};
}

FASTCONV_INLINE VecPairs load_pairs_partial(const bfloat16* p, int64_t n) {
  return n > 0 ? load_pairs(p) : VecPairs{{0}, {0}};
}

FASTCONV_INLINE VecPairs set1_pair(const bfloat16* p) {
  return load_pairs(p);
}
#endif

#if !defined(__AVX512F__)  // named where no instance uses them
VecPairs load_pairs_twice(const bfloat16* p, int64_t n);
VecPairs halves(VecPairs a, VecPairs b);
#endif

FASTCONV_INLINE VecF fma_pairs(VecPairs a, VecPairs b, VecF c) {
  return fma(a.second, b.second, fma(a.first, b.first, c));
}

FASTCONV_INLINE void store_two(bfloat16* p, VecF a, VecF b) {
  store(p, a);
  store(p + VecF::kLanes, b);
}

// n > lanes of one
FASTCONV_INLINE void store_two_partial(bfloat16* p, VecF a, VecF b, int64_t n) {
  store(p, a);
  store_partial(p + VecF::kLanes, b, n - VecF::kLanes);
}

#endif

}  // namespace fastconv::FASTCONV_ISA
