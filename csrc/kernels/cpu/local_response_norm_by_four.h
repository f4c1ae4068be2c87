// Windows of two channels before and after, of pixels in rows: four channels at a time read eight
// rows, not twenty, and share what their sums have in common.
#pragma once

#include "local_response_norm_common.h"

namespace fastconv::FASTCONV_ISA {
namespace {

constexpr int kFour = 4, kAround = kFour + 4;

// Channels c - 2 to c + 5 of a tile of pixels; rows off either end are zeros.
template <class T>
struct RowsAround {
  const T* row[kAround];
  const T* next;  // the first row that the next four channels add
  int64_t step;

  FASTCONV_INLINE RowsAround(const LocalResponseNormParams& p, const T* x, int64_t c,
                             const T* zeros)
      : next(x + (c + kAround - 2) * p.pixels), step(p.pixels) {
    for (int r = 0; r < kAround; ++r) {
      const int64_t channel = c - 2 + r;
      row[r] = channel < 0 || channel >= p.channels ? zeros : x + channel * p.pixels;
    }
  }

  template <class Lanes>
  FASTCONV_INLINE void load_all(int64_t i, Lanes lanes, vec_t<T> (&x)[kAround]) const {
    // The hardware starts anew at every row, a page or more apart.
    for (int r = 0; r < kFour; ++r) prefetch(next + r * step + i);
    for (int r = 0; r < kAround; ++r) x[r] = load(row[r] + i, lanes);
  }
};

FASTCONV_INLINE void sums_of_five(const VecF (&x)[kAround], VecF (&sum)[kFour]) {
  const VecF first = fma(x[1], x[1], x[2] * x[2]), middle = fma(x[3], x[3], x[4] * x[4]);
  const VecF last = fma(x[5], x[5], x[6] * x[6]);
  const VecF lower = first + middle, upper = middle + last;
  sum[0] = fma(x[0], x[0], lower), sum[1] = fma(x[5], x[5], lower);
  sum[2] = fma(x[2], x[2], upper), sum[3] = fma(x[7], x[7], upper);
}

// For each of the four channels k + scale * sum, times the power's factor, and its power as the
// product of two.
struct FourPowers {
  VecF base[kFour], rough[kFour], correction[kFour];

  FASTCONV_INLINE FourPowers(const ThreeQuarters<VecF>& power, const VecF (&x)[kAround]) {
    VecF sum[kFour];
    sums_of_five(x, sum);
    for (int r = 0; r < kFour; ++r) {
      base[r] = power.base(sum[r]);
      const auto product = power.product(base[r]);
      rough[r] = product.rough, correction[r] = product.correction;
    }
  }

  FASTCONV_INLINE bool all_regular() const {
    return all_positive_normal((correction[0] + correction[1]) + (correction[2] + correction[3]));
  }

  // Lanes without a correction get that of 1; rows that are no channel become those of a base of 1.
  FASTCONV_INLINE void mend(const ThreeQuarters<VecF>& power, const VecF (&x)[kAround],
                            int64_t channels) {
    const VecF one = VecF::set1(1);
    VecF sum[kFour];
    sums_of_five(x, sum);
    for (int r = 0; r < kFour; ++r) {
      if (r < channels) {
        rough[r] = power.mend(rough[r], sum[r]);
        correction[r] = max(correction[r], one);
      } else {
        base[r] = rough[r] = correction[r] = one;
      }
    }
  }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA
