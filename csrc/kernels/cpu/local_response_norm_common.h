// What both passes of local response normalisation share: the power, the window, the copies.
#pragma once

#include <type_traits>

#include "../local_response_norm.h"
#include "registry.h"
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

// How s is raised to -beta.
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

// Copies of a few pixels in the accumulation type, zeros around the channels of each, so that the
// window of a vector of channels is a row of shifted loads.
template <class T>
class PixelCopies {
 public:
  using A = accumulate_t<T>;
  const int64_t count;

  FASTCONV_INLINE PixelCopies(const LocalResponseNormParams& p, A* scratch)
      : count(local_response_norm_copied(p)),
        data_(scratch + local_response_norm_margin(p)),
        channels_(p.channels),
        pitch_(local_response_norm_pitch(p)) {
    std::memset(scratch, 0, sizeof(A) * count * pitch_);
  }

  FASTCONV_INLINE A* pixel(int64_t i) const { return data_ + i * pitch_; }

  FASTCONV_INLINE void fill(const T* x, int64_t pixels) const {
    for (int64_t i = 0; i < pixels; ++i) {
      for_each_vector<T>(channels_, Copy{x + i * channels_, pixel(i)});
    }
  }

 private:
  struct Copy {
    const T* from;
    A* to;
    template <class Lanes>
    FASTCONV_INLINE void operator()(int64_t c, Lanes lanes) const {
      store(to + c, load(from + c, lanes));
    }
  };

  A* data_;
  int64_t channels_, pitch_;
};

template <class Power>
struct PowerTag {
  using type = Power;
};

// Calls f(element, rows, power): the storage type, the window's size as a constant (0: any), and
// how to raise to -beta. Size 5 and beta 0.75 are AlexNet's, and nearly everyone's.
template <class F>
FASTCONV_INLINE void dispatch_local_response_norm(const LocalResponseNormParams& p, F&& f) {
  dispatch_dtype(p.dtype, [&](auto element) {
    using V = vec_t<decltype(element)>;
    if (p.beta != 0.75) {
      f(element, std::integral_constant<int, 0>{}, PowerTag<AnyBeta<V>>{});
    } else if (local_response_norm_rows(p) == 5) {
      f(element, std::integral_constant<int, 5>{}, PowerTag<ThreeQuarters<V>>{});
    } else {
      f(element, std::integral_constant<int, 0>{}, PowerTag<ThreeQuarters<V>>{});
    }
  });
}

}  // namespace
}  // namespace fastconv::FASTCONV_ISA
