// Element types on the device: arithmetic is in float (double for double), the activations on it.
#pragma once

#include "../common/activation.h"
#include "../common/types.h"

// The dynamic shared memory of a block, under a name.
#ifndef FASTCONV_SHARED
#define FASTCONV_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#endif

namespace fastconv::cuda {

template <DType dtype>
struct element;
template <>
struct element<DType::kFloat32> {
  using type = float;
};
template <>
struct element<DType::kFloat64> {
  using type = double;
};
template <>
struct element<DType::kBFloat16> {
  using type = bfloat16;
};
template <>
struct element<DType::kFloat16> {
  using type = float16;
};
// Template arguments of kernels are ints; see launch.h.
template <int dtype>
using element_t = typename element<static_cast<DType>(dtype)>::type;

template <class T>
constexpr bool kIsBFloat16 = false;
template <>
constexpr bool kIsBFloat16<bfloat16> = true;

FASTCONV_INLINE float bits_to_float(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

FASTCONV_INLINE uint32_t float_to_bits(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}

FASTCONV_INLINE float widen(float x) {
  return x;
}
FASTCONV_INLINE double widen(double x) {
  return x;
}
FASTCONV_INLINE float widen(bfloat16 x) {
  return bits_to_float(uint32_t(x.bits) << 16);
}
FASTCONV_INLINE float widen(float16 x) {
#if defined(__CUDA_ARCH__)
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
  return value;
#else
  _Float16 value;
  __builtin_memcpy(&value, &x.bits, sizeof value);
  return float(value);
#endif
}

// Rounds to the nearest, ties to even.
template <class T>
FASTCONV_INLINE T narrow(accumulate_t<T> x) {
  return x;
}
template <>
FASTCONV_INLINE bfloat16 narrow<bfloat16>(float x) {
#if defined(__CUDA_ARCH__)
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return {bits};
#else
  const uint32_t bits = float_to_bits(x);
  if (x != x) return {uint16_t(bits >> 16 | 0x40)};
  return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
#endif
}
template <>
FASTCONV_INLINE float16 narrow<float16>(float x) {
  float16 result;
#if defined(__CUDA_ARCH__)
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
#else
  const _Float16 value = static_cast<_Float16>(x);
  __builtin_memcpy(&result.bits, &value, sizeof value);
#endif
  return result;
}

// To 1 ulp or so, without the branches of the exact one.
FASTCONV_INLINE float approx_sqrt(float x) {
#if defined(__CUDA_ARCH__)
  float root;
  asm("sqrt.approx.f32 %0, %1;" : "=f"(root) : "f"(x));
  return root;
#else
  return sqrtf(x);
#endif
}

// To a few ulp where the exponent times log2(x) is small; NaN below zero.
FASTCONV_INLINE float approx_pow(float x, float exponent) {
#if defined(__CUDA_ARCH__)
  float power;
  asm("lg2.approx.f32 %0, %1;" : "=f"(power) : "f"(x));
  power *= exponent;
  asm("ex2.approx.f32 %0, %1;" : "=f"(power) : "f"(power));
  return power;
#else
  return powf(x, exponent);
#endif
}

// a % b for a >= 0; 64-bit division takes some 70 instructions, 32-bit division 20 (SASS).
FASTCONV_INLINE int64_t remainder_of(int64_t a, int64_t b) {
  return (uint64_t(a) | uint64_t(b)) >> 32 == 0 ? int64_t(uint32_t(a) % uint32_t(b)) : a % b;
}

// The value type of the activations in common/activation.h.
template <class A>
struct Number {
  A value;
  static FASTCONV_INLINE Number set1(double x) { return {A(x)}; }
};

#define FASTCONV_OPERATOR(op)                                       \
  template <class A>                                                \
  FASTCONV_INLINE Number<A> operator op(Number<A> a, Number<A> b) { \
    return {a.value op b.value};                                    \
  }
FASTCONV_OPERATOR(+)
FASTCONV_OPERATOR(-)
FASTCONV_OPERATOR(*)
FASTCONV_OPERATOR(/)
#undef FASTCONV_OPERATOR
// Within 2 ulp, by four instructions; the exact one takes a branch too, and in a kernel's epilogue
// is the larger part of its code. 0 for divisors above 2^126: of SiLU at -88, which is a subnormal.
FASTCONV_INLINE float divide(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fdividef(a, b);
#else
  return a / b;
#endif
}
FASTCONV_INLINE Number<float> operator/(Number<float> a, Number<float> b) {
  return {divide(a.value, b.value)};
}

template <class A>
FASTCONV_INLINE Number<A> min(Number<A> a, Number<A> b) {
  return {a.value < b.value ? a.value : b.value};
}
template <class A>
FASTCONV_INLINE Number<A> max(Number<A> a, Number<A> b) {
  return {a.value > b.value ? a.value : b.value};
}
template <class A>
FASTCONV_INLINE Number<A> zero_where_le(Number<A> g, Number<A> a, Number<A> b) {
  return {a.value <= b.value ? A(0) : g.value};
}
template <class A>
FASTCONV_INLINE Number<A> select_lt(Number<A> a, Number<A> b, Number<A> yes, Number<A> no) {
  return a.value < b.value ? yes : no;
}
FASTCONV_INLINE Number<float> exp(Number<float> x) {
  return {::expf(x.value)};
}
FASTCONV_INLINE Number<double> exp(Number<double> x) {
  return {::exp(x.value)};
}

// A float on its way to 16 bits: quotients and powers of e are good to some 22 bits, at a tenth of
// the instructions.
struct Rounded {
  float value;
  static FASTCONV_INLINE Rounded set1(double x) { return {float(x)}; }
};
#define FASTCONV_OPERATOR(op, result)                         \
  FASTCONV_INLINE Rounded operator op(Rounded x, Rounded y) { \
    const float a = x.value, b = y.value;                     \
    return {result};                                          \
  }
FASTCONV_OPERATOR(+, a + b)
FASTCONV_OPERATOR(-, a - b)
FASTCONV_OPERATOR(*, a* b)
FASTCONV_OPERATOR(/, divide(a, b))
#undef FASTCONV_OPERATOR
FASTCONV_INLINE Rounded exp(Rounded x) {
#if defined(__CUDA_ARCH__)
  return {__expf(x.value)};
#else
  return {::expf(x.value)};
#endif
}
FASTCONV_INLINE Rounded min(Rounded a, Rounded b) {
  return {a.value < b.value ? a.value : b.value};
}
FASTCONV_INLINE Rounded max(Rounded a, Rounded b) {
  return {a.value > b.value ? a.value : b.value};
}

// A kind known at run time costs a uniform branch, once for all the results of a thread:
// apply(kind, values, count) replaces each by its activation.
template <class A>
FASTCONV_INLINE void activate(Activation kind, A* values, int count) {
  dispatch_activation(kind, [&](auto act) {
    using Act = decltype(act);
#pragma unroll
    for (int i = 0; i < count; ++i) values[i] = Act::forward(Number<A>{values[i]}).value;
  });
}

}  // namespace fastconv::cuda
