// What both passes of local response normalisation share: the power, the window, the copies.
#pragma once

#include <type_traits>

#include "../local_response_norm.h"
#include "registry.h"
#include "simd/vectors.h"

namespace fastconv::FASTCONV_ISA {
namespace {

// How k + scale * sum is raised to -beta. Zero, negative, infinite and NaN lanes are raised as libm
// has them; rare, so kept out of the loops.
template <class V>
class AnyBeta {
 public:
  using scalar = typename V::scalar;
  static constexpr scalar kFactor = 1;  // base is what is raised times this

  explicit AnyBeta(const LocalResponseNormParams& p) : AnyBeta(p, kFactor) {}

  FASTCONV_INLINE V base(V sum) const { return fma(scale_, sum, k_); }

  FASTCONV_INLINE V operator()(V sum) const {
    const V s = base(sum), power = pow(s, V::set1(minus_beta_));
    return __builtin_expect(all_positive_normal(s), 1) ? power : mend(power, sum);
  }

  __attribute__((noinline, cold)) V mend(V power, V sum) const {
    scalar powers[V::kLanes], sums[V::kLanes], bases[V::kLanes];
    store(powers, power);
    store(sums, sum);
    store(bases, base(sum));
    for (int i = 0; i < V::kLanes; ++i) {
      if (__builtin_isnormal(bases[i]) && bases[i] > 0) continue;
      powers[i] = __builtin_pow(scalar(exact_scale_ * sums[i] + exact_k_), minus_beta_);
    }
    return load(powers);
  }

 protected:
  AnyBeta(const LocalResponseNormParams& p, double factor)
      : scale_(V::set1(scalar(p.scale * factor))),
        k_(V::set1(scalar(p.k * factor))),
        exact_scale_(p.scale),
        exact_k_(p.k),
        minus_beta_(scalar(-p.beta)) {}

 private:
  V scale_, k_;
  double exact_scale_, exact_k_;
  scalar minus_beta_;
};

template <class V>
struct ThreeQuarters : AnyBeta<V> {
  using AnyBeta<V>::AnyBeta;
  FASTCONV_INLINE V operator()(V sum) const {
    const V s = this->base(sum), root = sqrt(s);
    const V power = V::set1(1) / (root * sqrt(root));
    return __builtin_expect(all_positive_normal(s), 1) ? power : this->mend(power, sum);
  }
};

// With v near s^-1/4 and d = 1 - s v^4, s^-3/4 = v^3 (1 - d)^-3/4 = v^3 (1 + 3/4 d + 21/32 d^2
// ...). base is (4/3)^(4/3) times what is raised, so that 4/3 of this is wanted: v^3 (4/3 + d + 7/8
// d^2). The linear form, v^3 (7/3 - s v^4), is one operation; the 14 good bits of AVX-512 are
// enough to it.
template <>
struct ThreeQuarters<VecF> : AnyBeta<VecF> {
  static constexpr float kFactor = 1.46752322f;

  explicit ThreeQuarters(const LocalResponseNormParams& p) : AnyBeta<VecF>(p, kFactor) {}

  // The power is rough * correction; correction is NaN where it must be mended, else near 4/3.
  // inverse is 1 / s = v^4 (1 + d ...) there.
  struct Product {
    VecF rough, correction, inverse;
  };
  FASTCONV_INLINE Product product(VecF s) const {
    const VecF v = approx_rsqrt(s * approx_rsqrt(s)), v2 = v * v;
    if constexpr (VecF::kLanes == 16) {
      const VecF linear = VecF::set1(7.0f / 3.0f) - (s * v2) * v2;
      return {v2 * v, linear, (v2 * v2) * (linear - VecF::set1(1.0f / 3.0f))};
    }
    const VecF d = VecF::set1(1) - (s * v2) * v2;
    return {v2 * v, fma(d, fma(d, VecF::set1(0.875f), VecF::set1(1)), VecF::set1(4.0f / 3.0f)),
            VecF::set1(1) / s};
  }

  FASTCONV_INLINE VecF operator()(VecF sum) const {
    const Product p = product(base(sum));
    const VecF power = p.rough * p.correction;
    return __builtin_expect(all_positive_normal(p.correction), 1) ? power : mend(power, sum);
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

// The pixels of a unit of contiguous planes: the first one's offset in channel 0, and how many.
struct PlanesTile {
  int64_t start, count;
};

FASTCONV_INLINE PlanesTile planes_tile(const LocalResponseNormParams& p, int64_t unit) {
  const int64_t tile = local_response_norm_pixels_a_unit(p), tiles = div_up(p.pixels, tile);
  const int64_t image = unit / tiles, first = unit % tiles * tile;
  return {image * p.channels * p.pixels + first, min_of(tile, p.pixels - first)};
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
