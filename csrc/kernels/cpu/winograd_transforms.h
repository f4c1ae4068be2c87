// The transforms of Winograd's convolution F(4x4, 3x3), one dimension at a time.
//
// Its polynomials are taken at 0, +-sqrt(1/2), +-sqrt(2) and infinity: all constants but the roots
// are then powers of two and 5/2, and little cancels. Largest error over the largest output against
// float64, inputs normal after ReLU, of 64 and 512 channels: 1.5e-6 and 2.1e-6; at 0, +-1, +-2 and
// infinity, as published, 6.4e-6 and 9.7e-6; at 0, +-1, +-1/2: 5.5e-6 and 9.8e-6; at 0, +-3/4,
// +-3/2: 1.8e-6 and 2.3e-6. The sums of the definition, by torch: 3.4e-7 and 2.6e-7.
#pragma once

#include "simd/simd.h"

namespace fastconv::FASTCONV_ISA {

constexpr int kWinogradTile = 4;  // outputs, a side
constexpr int kWinogradEdge = 6;  // inputs, a side
constexpr int kWinogradProducts = kWinogradEdge * kWinogradEdge;

constexpr float kRootOfHalf = 0.70710678118f, kRootOfTwo = 1.41421356237f;

// Six inputs in a line, at the points 0, sqrt(1/2), -sqrt(1/2), sqrt(2), -sqrt(2), infinity.
template <class V>
FASTCONV_INLINE void transform_input(const V (&d)[6], V (&t)[6]) {
  const V minus_five_halves = V::set1(-2.5f), minus_two = V::set1(-2), minus_half = V::set1(-0.5f);
  const V even = fma(minus_two, d[2], d[4]), odd = fma(minus_two, d[1], d[3]);
  const V wide_even = fma(minus_half, d[2], d[4]), wide_odd = fma(minus_half, d[1], d[3]);
  t[0] = fma(minus_five_halves, d[2], d[0]) + d[4];
  t[1] = fma(V::set1(kRootOfHalf), odd, even);
  t[2] = fma(V::set1(-kRootOfHalf), odd, even);
  t[3] = fma(V::set1(kRootOfTwo), wide_odd, wide_even);
  t[4] = fma(V::set1(-kRootOfTwo), wide_odd, wide_even);
  t[5] = fma(minus_five_halves, d[3], d[1]) + d[5];
}

// Three weights in a line, at the same points, each but the last over the derivative there of
// x (x^2 - 1/2) (x^2 - 2).
template <class V>
FASTCONV_INLINE void transform_weight(const V (&g)[3], V (&t)[6]) {
  const V third = V::set1(1.0f / 3), sixth = V::set1(1.0f / 6);
  const V even = fma(V::set1(-2.0f / 3), g[0], V::set1(-1.0f / 3) * g[2]);
  const V odd = V::set1(2 * kRootOfHalf / 3);
  const V wide_even = fma(sixth, g[0], third * g[2]), wide_odd = V::set1(kRootOfTwo / 6);
  t[0] = g[0];
  t[1] = fma(V::set1(0) - odd, g[1], even);
  t[2] = fma(odd, g[1], even);
  t[3] = fma(wide_odd, g[1], wide_even);
  t[4] = fma(V::set1(0) - wide_odd, g[1], wide_even);
  t[5] = g[2];
}

// Four outputs in a line, from the products at those points.
template <class V>
FASTCONV_INLINE void transform_output(const V (&m)[6], V (&y)[4]) {
  const V half = V::set1(0.5f), two = V::set1(2);
  const V even = m[1] + m[2], odd = V::set1(kRootOfHalf) * (m[1] - m[2]);
  const V wide_even = m[3] + m[4], wide_odd = V::set1(kRootOfTwo) * (m[3] - m[4]);
  y[0] = m[0] + even + wide_even;
  y[1] = odd + wide_odd;
  y[2] = fma(two, wide_even, half * even);
  y[3] = fma(two, wide_odd, fma(half, odd, m[5]));
}

}  // namespace fastconv::FASTCONV_ISA
