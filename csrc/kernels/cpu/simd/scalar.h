// The vocabulary of simd.h in plain C++, one lane: runs on any processor.
#pragma once

#include "narrow.h"

namespace fastconv::FASTCONV_ISA {

template <class S>
struct Lane {
  static constexpr int kLanes = 1;
  using scalar = S;
  using Mask = bool;
  S v;
  static FASTCONV_INLINE Lane set1(S x) { return {x}; }
  static FASTCONV_INLINE Mask mask(LaneRange r) { return r.first <= 0 && r.last > 0; }
  friend FASTCONV_INLINE Lane operator+(Lane a, Lane b) { return {a.v + b.v}; }
  friend FASTCONV_INLINE Lane operator-(Lane a, Lane b) { return {a.v - b.v}; }
  friend FASTCONV_INLINE Lane operator*(Lane a, Lane b) { return {a.v * b.v}; }
  friend FASTCONV_INLINE Lane operator/(Lane a, Lane b) { return {a.v / b.v}; }
  friend FASTCONV_INLINE Lane fma(Lane a, Lane b, Lane c) { return {a.v * b.v + c.v}; }
  friend FASTCONV_INLINE Lane min(Lane a, Lane b) { return a.v < b.v ? a : b; }
  friend FASTCONV_INLINE Lane max(Lane a, Lane b) { return a.v > b.v ? a : b; }
  friend FASTCONV_INLINE Lane zero_where_le(Lane v, Lane a, Lane b) {
    return a.v <= b.v ? Lane{0} : v;
  }
  friend FASTCONV_INLINE Lane select_lt(Lane a, Lane b, Lane x, Lane y) {
    return a.v < b.v ? x : y;
  }
  friend FASTCONV_INLINE Lane sqrt(Lane a) { return {S(__builtin_sqrt(a.v))}; }
  friend FASTCONV_INLINE Lane approx_rsqrt(Lane a) { return {1 / S(__builtin_sqrt(a.v))}; }
  friend FASTCONV_INLINE bool all_positive_normal(Lane a) {
    return __builtin_isnormal(a.v) && a.v > 0;
  }
  friend FASTCONV_INLINE S reduce_add(Lane a) { return a.v; }
};

using VecF = Lane<float>;
using VecD = Lane<double>;

template <class T>
FASTCONV_INLINE Lane<accumulate_t<T>> load(const T* p) {
  return {widen(*p)};
}

template <class T>
FASTCONV_INLINE Lane<accumulate_t<T>> load_partial(const T* p, int64_t n) {
  return {n > 0 ? widen(*p) : accumulate_t<T>(0)};
}

template <class T>
FASTCONV_INLINE void store(T* p, Lane<accumulate_t<T>> a) {
  narrow(a.v, p);
}

template <class T>
FASTCONV_INLINE void store_partial(T* p, Lane<accumulate_t<T>> a, int64_t n) {
  if (n > 0) narrow(a.v, p);
}

template <class T>
FASTCONV_INLINE Lane<accumulate_t<T>> load_range(const T* p, bool m) {
  return load_partial(p, m);
}

template <class S>
FASTCONV_INLINE Lane<S> fma_range(Lane<S> a, Lane<S> b, Lane<S> c, bool m) {
  return m ? fma(a, b, c) : c;
}

template <class S>
FASTCONV_INLINE Lane<S> even_lanes(Lane<S> a, Lane<S>) {
  return a;
}

template <class S>
FASTCONV_INLINE Lane<S> permute(Lane<S> a, const int32_t*) {
  return a;
}

template <class T>
FASTCONV_INLINE void stream(T* p, Lane<accumulate_t<T>> a) {
  narrow(a.v, p);
}

FASTCONV_INLINE void stream_fence() {}

// whole + fraction is a number, whole integral and 0 <= fraction < 1.
struct Split {
  VecF whole, fraction;
};

FASTCONV_INLINE Split split(VecF a) {
  const VecF bounded = max(VecF::set1(-151), min(VecF::set1(129), a));
  const VecF whole = {__builtin_floorf(bounded.v)};
  return {whole, bounded - whole};
}

// a * 2^n for integral n; the exponent of a; the mantissa of a in [1, 2).
FASTCONV_INLINE VecF scale2(VecF a, VecF n) {
  return {__builtin_scalbnf(a.v, int(n.v))};
}

FASTCONV_INLINE VecF exponent(VecF a) {
  return {__builtin_logbf(a.v)};
}

FASTCONV_INLINE VecF mantissa(VecF a) {
  return {float_of((bits_of(a.v) & 0x007fffff) | 0x3f800000)};
}

FASTCONV_INLINE VecF round(VecF a) {
  return {__builtin_rintf(a.v)};
}

}  // namespace fastconv::FASTCONV_ISA
