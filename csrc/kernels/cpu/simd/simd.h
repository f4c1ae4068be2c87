// One SIMD vocabulary for every instruction set; a kernel names only what is listed here.
//
//   vec_t<T>                     vector that computes for storage type T (float for 16-bit types)
//   load, load_partial           memory -> vector; partial reads n lanes, the others are zero
//   V::mask({first, last})       a V::Mask of the lanes first to last - 1
//   load_range(p, mask)          reads the lanes of mask, the others are zero
//   fma_range(a, b, c, mask)     a * b + c in the lanes of mask, c in the others
//   even_lanes(a, b)             lanes 0, 2, 4, ... of a followed by b
//   permute(a, lane)             lane i of the result is lane lane[i] of a
//   load_twice(p, n)             the same n <= kLanes / 2 lanes in either half (AVX-512, float only,
//   halves(a, b), upper_half(a)  as these): low half of a, high half of b; the high half moved down
//   store, store_partial         vector -> memory, rounding to nearest even for 16-bit types
//   stream                       store past the caches; p aligned to the vector's size
//   + - * /, fma(a, b, c)        fma is a * b + c
//   min(a, b), max(a, b)         b when either is NaN
//   zero_where_le(v, a, b)       0 where a <= b, else v
//   select_lt(a, b, x, y)        x where a < b, else y
//   sqrt, exp, log, pow          the last three in math.h
//   split, scale2                a number as whole + fraction; a * 2^floor(n)
//   reduce_add                   sum of the lanes
//   approx_rsqrt                 1 / sqrt to at least 11 bits, a start for a Newton step
//   all_positive_normal          no lane is zero, subnormal, negative, infinite or NaN
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../../common/types.h"

#if defined(__AVX512F__)
#include "avx512.h"
#elif defined(__AVX2__)
#include "avx2.h"
#else
#include "scalar.h"
#endif

#include "math.h"

namespace fastconv::FASTCONV_ISA {

template <class T>
struct vec {
  using type = VecF;
};
template <>
struct vec<double> {
  using type = VecD;
};
template <class T>
using vec_t = typename vec<T>::type;

template <class T>
constexpr int kLanes = vec_t<T>::kLanes;

}  // namespace fastconv::FASTCONV_ISA
