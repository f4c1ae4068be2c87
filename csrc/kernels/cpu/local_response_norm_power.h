// s^-beta, the power both passes of local response normalisation take.
#pragma once

#include "../local_response_norm.h"
#include "simd/vectors.h"

namespace fastconv::FASTCONV_ISA {
namespace {

// Zero, negative, infinite and NaN lanes as libm has them; rare, so kept out of the loops.
template <class V>
__attribute__((noinline, cold)) V mend_special_lanes(V power, V s, typename V::scalar exponent) {
  typename V::scalar powers[V::kLanes], lanes[V::kLanes];
  store(powers, power);
  store(lanes, s);
  for (int i = 0; i < V::kLanes; ++i) {
    if (__builtin_isnormal(lanes[i]) && lanes[i] > 0) continue;
    powers[i] = __builtin_pow(lanes[i], exponent);
  }
  return load(powers);
}

// (y / s^-0.75) is wrong by d = 1 - s^3 y^4 in its fourth power; y (1 - d)^(-1/4) is expanded to
// second order, which takes 11 good bits to float's 24.
FASTCONV_INLINE VecF inverse_three_quarters(VecF s) {
  const VecF half = approx_rsqrt(s);                // s^-1/2
  const VecF y = half * half * approx_rsqrt(half);  // s^-1 * s^1/4
  const VecF sy = s * y;
  const VecF d = fma(sy * sy, VecF::set1(0) - sy * y, VecF::set1(1));
  const VecF correction = fma(d, VecF::set1(5.0f / 32.0f), VecF::set1(0.25f));
  return fma(y * d, correction, y);
}

FASTCONV_INLINE VecD inverse_three_quarters(VecD s) {
  const VecD root = sqrt(s);
  return VecD::set1(1) / (root * sqrt(root));
}

// How s is raised to -beta; kMinusBeta is what a special lane is raised to.
template <class V>
struct ThreeQuarters {
  explicit ThreeQuarters(double) {}
  FASTCONV_INLINE V operator()(V s) const {
    const V power = inverse_three_quarters(s);
    return __builtin_expect(all_positive_normal(s), 1) ? power
                                                       : mend_special_lanes<V>(power, s, -0.75);
  }
};

template <class V>
struct AnyBeta {
  typename V::scalar minus_beta;
  explicit AnyBeta(double beta) : minus_beta(-beta) {}
  FASTCONV_INLINE V operator()(V s) const {
    const V power = pow(s, V::set1(minus_beta));
    return __builtin_expect(all_positive_normal(s), 1)
               ? power
               : mend_special_lanes<V>(power, s, minus_beta);
  }
};

// The sum of squares of `rows` vectors, `step` elements apart; kRows is rows where it is known.
template <int kRows, class T, class Lanes>
FASTCONV_INLINE vec_t<T> sum_of_squares(const T* x, int64_t rows, int64_t step, Lanes lanes) {
  vec_t<T> sum = vec_t<T>::set1(0);
  for (int64_t j = 0; j < (kRows > 0 ? kRows : rows); ++j) {
    const vec_t<T> v = load(x + j * step, lanes);
    sum = fma(v, v, sum);
  }
  return sum;
}

// The part of the window of channel c that lies within the channels.
struct Window {
  int64_t first, rows;
  FASTCONV_INLINE Window(const LocalResponseNormParams& p, int64_t c)
      : first(max_of<int64_t>(0, c - p.before)),
        rows(min_of(p.channels - 1, c + p.after) - first + 1) {}
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA
