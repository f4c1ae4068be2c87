// The gradient of local response normalisation on the CPU. With s = k + scale * sum of x^2,
//   grad_x[c] = g[c] s[c]^-beta - 2 scale beta x[c] * sum of q[i], q = g x s^(-beta - 1),
// over the channels i whose window holds c: i in [c - after, c + before]. s is computed again from
// x, so that nothing but the input is kept from the forward pass.
#include "../local_response_norm.h"

#include "local_response_norm_by_four.h"

namespace fastconv::FASTCONV_ISA {
namespace {

template <int kRows, class A>
FASTCONV_INLINE vec_t<A> sum_of_rows(const A* q, int64_t rows, int64_t step) {
  vec_t<A> sum = load(q);
  for (int64_t j = 1; j < (kRows > 0 ? kRows : rows); ++j) sum = sum + load(q + j * step);
  return sum;
}

// Rows from here that are asked for: a row of 16 vectors takes 90 ns, memory answers after 130.
// With one row ahead and no ends 16x96x55x55 takes 3.0 ms on one AVX-512 core, with two rows and
// the ends 2.4, with three 2.25; on two cores memory is the limit either way.
constexpr int64_t kRowsAhead = 3;

// First half: q, and the part of the gradient that needs no neighbours.
template <class T, class X, int kRows, class Power>
struct Terms {
  const X* x;       // this channel, or pixel
  const X* window;  // the first element of its window
  const T* g;
  accumulate_t<T>*q, *own;
  int64_t rows, step;
  Power power;

  template <class Lanes>
  FASTCONV_INLINE void operator()(int64_t i, Lanes lanes) const {
    if (step > 1) {  // rows, which the hardware does not foresee, as in forward
      prefetch(window + (rows - 1 + kRowsAhead) * step + i);
      prefetch(g + kRowsAhead * step + i);
    }
    const auto sum = sum_of_squares<kRows>(window + i, rows, step, lanes);
    const auto direct = load(g + i, lanes) * power(sum);
    store(own + i, direct, lanes);
    store(q + i, load(x + i, lanes) * direct / power.base(sum), lanes);
  }
};

// Second half: the neighbours' part.
template <class T, class X, int kRows>
struct Gather {
  const X* x;
  const accumulate_t<T>*q, *own;
  T* grad;
  int64_t rows, step;
  vec_t<T> factor;

  template <class Lanes>
  FASTCONV_INLINE void operator()(int64_t i, Lanes lanes) const {
    const auto sum = sum_of_rows<kRows>(q + i, rows, step);
    store(grad + i, fma(factor * sum, load(x + i, lanes), load(own + i)), lanes);
  }
};

// Channels outside, pixels inside. A ring holds q of the channels around the one being finished,
// which trails the one being read by `before`; rows off either end are zero.
template <class T, int kRows, class Power>
void backward_nchw(const LocalResponseNormParams& p, void* scratch, int64_t begin, int64_t end) {
  using V = vec_t<T>;
  using A = accumulate_t<T>;
  const int64_t tile = local_response_norm_pixels_a_unit(p);
  const int64_t rows = local_response_norm_rows(p);
  A* q = static_cast<A*>(scratch);
  A* own = q + rows * tile;
  const V factor = V::set1(-2 * p.scale * p.beta * Power::kFactor);
  const Power power(p);
  for (int64_t unit = begin; unit < end; ++unit) {
    const auto [start, count] = planes_tile(p, unit);
    const T* x = static_cast<const T*>(p.input) + start;
    const T* g = static_cast<const T*>(p.grad_output) + start;
    T* grad = static_cast<T*>(p.output) + start;
    std::memset(q, 0, sizeof(A) * rows * tile);
    for (int64_t j = 0; j < p.channels + p.before; ++j) {
      const int64_t slot = j % rows * tile;
      if (j >= p.channels) {
        std::memset(q + slot, 0, sizeof(A) * tile);
      } else {
        const Window w(p, j);
        const T* row = x + j * p.pixels;
        const T* window = x + w.first * p.pixels;
        const T* upper = g + j * p.pixels;
        // A row that begins within a line ends in one line more than it has vectors.
        prefetch(x + (j + p.after + kRowsAhead) * p.pixels + count);
        prefetch(upper + kRowsAhead * p.pixels + count);
        prefetch(grad + (j - p.before + kRowsAhead) * p.pixels);
        prefetch(grad + (j - p.before + kRowsAhead) * p.pixels + count);
        if (w.rows == kRows) {
          for_each_vector<T>(count, Terms<T, T, kRows, Power>{row, window, upper, q + slot,
                                                              own + slot, kRows, p.pixels, power});
        } else {
          for_each_vector<T>(count, Terms<T, T, 0, Power>{row, window, upper, q + slot, own + slot,
                                                          w.rows, p.pixels, power});
        }
      }
      if (const int64_t c = j - p.before; c >= 0) {
        for_each_vector<T>(count, Gather<T, T, kRows>{x + c * p.pixels, q, own + c % rows * tile,
                                                      grad + c * p.pixels, rows, tile, factor});
      }
    }
  }
}

// q of four channels in a row, for windows of five. What the last three of them and those before
// give to the channels that are not finished yet is pending, and the gradient is written of the two
// channels before and the first two of these.
template <class T>
struct FourGradients {
  RowsAround<T> rows;
  ThreeQuarters<VecF> power;
  VecF factor;
  int64_t channels, tile;
  float* pending;  // four rows: channels c - 2 to c + 1
  float* own;      // two rows: channels c - 2 and c - 1
  const T* g[kFour];

  template <class Lanes>
  FASTCONV_INLINE void operator()(int64_t i, Lanes lanes, VecF (&grad)[kFour]) const {
    VecF x[kAround];
    rows.load_all(i, lanes, x);
    const FourPowers powers(power, x);
    if (__builtin_expect(!powers.all_regular(), 0)) {
      VecF mended[kFour];
      mend(*this, i, lanes, mended);
      for (int r = 0; r < kFour; ++r) grad[r] = mended[r];
    } else {
      finish(x, powers, i, lanes, grad);
    }
  }

 private:
  template <class Lanes>
  __attribute__((noinline, cold)) static void mend(FourGradients self, int64_t i, Lanes lanes,
                                                   VecF (&grad)[kFour]) {
    VecF x[kAround];
    self.rows.load_all(i, lanes, x);
    FourPowers powers(self.power, x);
    powers.mend(self.power, x, self.channels);
    self.finish(x, powers, i, lanes, grad);
  }

  template <class Lanes>
  FASTCONV_INLINE void finish(const VecF (&x)[kAround], const FourPowers& powers, int64_t i,
                              Lanes lanes, VecF (&grad)[kFour]) const {
    VecF direct[kFour], q[kFour];
    for (int r = 0; r < kFour; ++r) {
      direct[r] = (load(g[r] + i, lanes) * powers.rough[r]) * powers.correction[r];
      q[r] = factor * x[r + 2] * direct[r] * powers.inverse[r];
    }
    const VecF first = q[0] + q[1], last = q[2] + q[3];
    float *owed = pending + i, *mine = own + i;
    grad[0] = fma(x[0], load(owed) + q[0], load(mine));
    grad[1] = fma(x[1], load(owed + tile) + first, load(mine + tile));
    grad[2] = fma(x[2], (load(owed + 2 * tile) + first) + q[2], direct[0]);
    grad[3] = fma(x[3], (load(owed + 3 * tile) + first) + last, direct[1]);
    store(mine, direct[2]), store(mine + tile, direct[3]);
    store(owed, first + last), store(owed + tile, q[1] + last);
    store(owed + 2 * tile, last), store(owed + 3 * tile, q[3]);
  }
};

template <class T>
void backward_by_four(const LocalResponseNormParams& p, void* scratch, int64_t begin, int64_t end) {
  const int64_t tile = local_response_norm_pixels_a_unit(p);
  float* pending = static_cast<float*>(scratch);
  float* own = pending + kFour * tile;
  T* zeros = reinterpret_cast<T*>(own + 2 * tile);
  T* ignored = reinterpret_cast<T*>(own + 3 * tile);
  std::memset(zeros, 0, sizeof(T) * tile);
  const ThreeQuarters<VecF> power(p);
  const VecF factor = VecF::set1(float(-2 * p.scale * p.beta * power.kFactor));
  for (int64_t unit = begin; unit < end; ++unit) {
    const auto [start, count] = planes_tile(p, unit);
    const T* x = static_cast<const T*>(p.input) + start;
    const T* g = static_cast<const T*>(p.grad_output) + start;
    T* grad = static_cast<T*>(p.output) + start;
    std::memset(pending, 0, sizeof(float) * 6 * tile);
    for (int64_t c = 0; c < p.channels + 2; c += kFour) {
      FourGradients<T> four{{p, x, c, zeros}, power, factor, p.channels - c, tile,
                            pending,          own,   {}};
      T* row[kFour];
      for (int r = 0; r < kFour; ++r) {
        const int64_t done = c - 2 + r;
        four.g[r] = c + r < p.channels ? g + (c + r) * p.pixels : zeros;
        row[r] = done < 0 || done >= p.channels ? ignored : grad + done * p.pixels;
      }
      for_each_four<T>(local_response_norm_streams(p), row, count, four);
    }
  }
}

template <class T, int kRows, class Power>
void backward_nhwc(const LocalResponseNormParams& p, void* scratch, int64_t begin, int64_t end) {
  using V = vec_t<T>;
  using A = accumulate_t<T>;
  const int64_t share = local_response_norm_scratch(p) / 3;
  const PixelCopies<T> copies(p, static_cast<A*>(scratch));
  const PixelCopies<T> q(p, static_cast<A*>(scratch) + share);
  const PixelCopies<T> own(p, static_cast<A*>(scratch) + 2 * share);
  const int64_t C = p.channels, rows = local_response_norm_rows(p);
  const int64_t a_unit = local_response_norm_pixels_a_unit(p);
  const int64_t last = min_of(end * a_unit, p.batch * p.pixels);
  const T* x = static_cast<const T*>(p.input);
  const T* g = static_cast<const T*>(p.grad_output);
  T* grad = static_cast<T*>(p.output);
  const V factor = V::set1(-2 * p.scale * p.beta * Power::kFactor);
  const Power power(p);
  for (int64_t first = begin * a_unit; first < last; first += copies.count) {
    const int64_t count = min_of(copies.count, last - first);
    copies.fill(x + first * C, count);
    for (int64_t i = 0; i < count; ++i) {
      const A* pixel = copies.pixel(i);
      for_each_vector<T>(C, Terms<T, A, kRows, Power>{pixel, pixel - p.before, g + (first + i) * C,
                                                      q.pixel(i), own.pixel(i), rows, 1, power});
    }
    for (int64_t i = 0; i < count; ++i) {
      for_each_vector<T>(C, Gather<T, A, kRows>{copies.pixel(i), q.pixel(i) - p.after, own.pixel(i),
                                                grad + (first + i) * C, rows, 1, factor});
    }
  }
}

void run(const LocalResponseNormParams& p, void* scratch, int64_t begin, int64_t end) {
  dispatch_local_response_norm(p, [&](auto element, auto rows, auto power) {
    using T = decltype(element);
    using Power = typename decltype(power)::type;
    constexpr int kRows = decltype(rows)::value;
    if (p.layout == Layout::kNHWC) {
      backward_nhwc<T, kRows, Power>(p, scratch, begin, end);
    } else if constexpr (kRows == 5 && std::is_same_v<Power, ThreeQuarters<VecF>>) {
      backward_by_four<T>(p, scratch, begin, end);
    } else {
      backward_nchw<T, kRows, Power>(p, scratch, begin, end);
    }
  });
  if (local_response_norm_streams(p)) stream_fence();
}

}  // namespace

const LocalResponseNormKernels local_response_norm_backward_kernels = {run};

}  // namespace fastconv::FASTCONV_ISA
