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
    // The hardware starts anew at every row, a page or more apart. Of the gradients, which are read
    // once, it knows enough: asked for besides, 16x96x55x55 took 1.24 ms backward in place of 1.16
    // (two cores of an Intel Xeon with AMX).
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

// For each of the four channels k + scale * sum, times the power's factor: its power as the product
// of two, and its inverse.
struct FourPowers {
  VecF rough[kFour], correction[kFour], inverse[kFour];

  FASTCONV_INLINE FourPowers(const ThreeQuarters<VecF>& power, const VecF (&x)[kAround]) {
    VecF sum[kFour];
    sums_of_five(x, sum);
    for (int r = 0; r < kFour; ++r) {
      const auto product = power.product(power.base(sum[r]));
      rough[r] = product.rough, correction[r] = product.correction;
      inverse[r] = product.inverse;
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
        const VecF divided = one / power.base(sum[r]);
        inverse[r] = select_lt(VecF::set1(0), correction[r], inverse[r], divided);
        rough[r] = power.mend(rough[r], sum[r]);
        correction[r] = max(correction[r], one);
      } else {
        rough[r] = correction[r] = inverse[r] = one;
      }
    }
  }
};

// A row of results that goes past the caches in whole lines: its vectors begin anywhere in a line,
// so each line is made of the end of one and the head of the next.
template <class T>
class StreamedRow {
 public:
  static constexpr int L = kLanes<T>;

  FASTCONV_INLINE void begin(T* row, VecF first) {
    const auto past = int64_t(reinterpret_cast<uintptr_t>(row) / sizeof(T) % L);
    head_ = (L - past) % L;
    if (head_ > 0) store_partial(row, first, head_);
    turn_ = kOrder.lane + head_;
    kept_ = VecF::set1(float(L - head_));
    before_ = permute(first, turn_);
    line_ = row + head_;
  }

  FASTCONV_INLINE void add(int64_t i, VecF next) {
    const VecF turned = permute(next, turn_);
    stream(line_ + i - L, joined(turned));
    before_ = turned;
  }

  // n lanes of `last` are left, fewer than all.
  FASTCONV_INLINE void end(int64_t i, VecF last, int64_t n) {
    const VecF turned = permute(last, turn_), line = joined(turned);
    if (n >= head_) {
      stream(line_ + i - L, line);
      if (n > head_) store_partial(line_ + i, turned, n - head_);
    } else {
      store_partial(line_ + i - L, line, L - head_ + n);
    }
  }

 private:
  struct Order {
    int32_t lane[2 * L];
    float number[L];
    constexpr Order() : lane(), number() {
      for (int i = 0; i < L; ++i) lane[i] = lane[L + i] = i, number[i] = float(i);
    }
  };
  static constexpr Order kOrder{};

  FASTCONV_INLINE VecF joined(VecF turned) const {
    return select_lt(load(kOrder.number), kept_, before_, turned);
  }

  int64_t head_;
  T* line_;
  const int32_t* turn_;
  VecF kept_, before_;
};

// Calls body(i, lanes, results), which gives a vector for each of four rows, along the rows.
template <class T, class Body>
FASTCONV_INLINE void for_each_four(bool streams, T* const (&row)[kFour], int64_t count,
                                   const Body& body) {
  constexpr int L = kLanes<T>;
  if (!streams || count < L) {
    return for_each_vector<T>(count, [&](int64_t i, auto lanes) {
      VecF result[kFour];
      body(i, lanes, result);
      for (int r = 0; r < kFour; ++r) store(row[r] + i, result[r], lanes);
    });
  }
  StreamedRow<T> rows[kFour];
  VecF result[kFour];
  body(0, AllLanes{}, result);
  for (int r = 0; r < kFour; ++r) rows[r].begin(row[r], result[r]);
  int64_t i = L;
  for (; i + L <= count; i += L) {
    body(i, AllLanes{}, result);
    for (int r = 0; r < kFour; ++r) rows[r].add(i, result[r]);
  }
  for (VecF& none : result) none = VecF::set1(0);
  if (i < count) body(i, FirstLanes{count - i}, result);
  for (int r = 0; r < kFour; ++r) rows[r].end(i, result[r], count - i);
}

}  // namespace
}  // namespace fastconv::FASTCONV_ISA
