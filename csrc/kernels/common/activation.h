// Activations as functors over any value type: a SIMD vector on the CPU, a float on the GPU.
// The value type brings set1, min, max, exp and select_between; see kernels/cpu/simd.
#pragma once

#include "types.h"

namespace fastconv {

enum class Activation : int8_t { kNone, kReLU, kReLU6, kSiLU, kHardswish };

// forward(z) is the activation; backward(g, z) is g times its derivative at z.
// min and max return their second argument when either is NaN, so NaN passes as in torch.
template <Activation kind>
struct ActivationOp;

template <>
struct ActivationOp<Activation::kNone> {
  template <class V>
  static FASTCONV_INLINE V forward(V z) {
    return z;
  }
  template <class V>
  static FASTCONV_INLINE V backward(V g, V) {
    return g;
  }
};

template <>
struct ActivationOp<Activation::kReLU> {
  template <class V>
  static FASTCONV_INLINE V forward(V z) {
    return max(V::set1(0), z);
  }
  // Zero where z <= 0: a NaN lets the gradient pass, as torch's threshold_backward does.
  template <class V>
  static FASTCONV_INLINE V backward(V g, V z) {
    return zero_where_le(g, z, V::set1(0));
  }
  // Whether backward lets the gradient pass; of a number.
  template <class A>
  static FASTCONV_INLINE bool passes(A z) {
    return !(z <= 0);
  }
};

template <>
struct ActivationOp<Activation::kReLU6> {
  template <class V>
  static FASTCONV_INLINE V forward(V z) {
    return min(V::set1(6), max(V::set1(0), z));
  }
  template <class V>
  static FASTCONV_INLINE V backward(V g, V z) {
    return zero_where_le(zero_where_le(g, z, V::set1(0)), V::set1(6), z);
  }
  template <class A>
  static FASTCONV_INLINE bool passes(A z) {
    return !(z <= 0) && !(z >= 6);
  }
};

template <>
struct ActivationOp<Activation::kSiLU> {
  template <class V>
  static FASTCONV_INLINE V forward(V z) {
    return z / (V::set1(1) + exp(V::set1(0) - z));
  }
  template <class V>
  static FASTCONV_INLINE V backward(V g, V z) {
    const V one = V::set1(1);
    const V s = one / (one + exp(V::set1(0) - z));
    return g * s * (one + z * (one - s));
  }
};

template <>
struct ActivationOp<Activation::kHardswish> {
  template <class V>
  static FASTCONV_INLINE V forward(V z) {
    const V gate = min(V::set1(6), max(V::set1(0), z + V::set1(3)));
    return z * gate * V::set1(1.0 / 6);
  }
  // 0 up to -3, (2z + 3) / 6 between, 1 from 3 on.
  template <class V>
  static FASTCONV_INLINE V backward(V g, V z) {
    const V three = V::set1(3);
    const V slope = (z + z + three) / V::set1(6);
    const V inside = zero_where_le(g * slope, z, V::set1(-3));
    return select_lt(z, three, inside, g);
  }
};

// Calls f(ActivationOp<kind>{}) for a kind known at run time.
template <class F>
FASTCONV_INLINE void dispatch_activation(Activation kind, F&& f) {
  switch (kind) {
    case Activation::kNone:
      return f(ActivationOp<Activation::kNone>{});
    case Activation::kReLU:
      return f(ActivationOp<Activation::kReLU>{});
    case Activation::kReLU6:
      return f(ActivationOp<Activation::kReLU6>{});
    case Activation::kSiLU:
      return f(ActivationOp<Activation::kSiLU>{});
    case Activation::kHardswish:
      return f(ActivationOp<Activation::kHardswish>{});
  }
}

// Whether all that the gradient needs to know of an element is a bit.
FASTCONV_INLINE bool is_rectifier(Activation kind) {
  return kind == Activation::kReLU || kind == Activation::kReLU6;
}

template <class F>
FASTCONV_INLINE void dispatch_rectifier(Activation kind, F&& f) {
  if (kind == Activation::kReLU) return f(ActivationOp<Activation::kReLU>{});
  return f(ActivationOp<Activation::kReLU6>{});
}

}  // namespace fastconv
