// The gradient of local response normalisation on the CPU. With s = k + scale * sum of x^2,
//   grad_x[c] = g[c] s[c]^-beta - 2 scale beta x[c] * sum of q[i], q = g x s^(-beta - 1),
// over the channels i whose window holds c: i in [c - after, c + before]. s is computed again from
// x, so that nothing but the input is kept from the forward pass.
#include "../local_response_norm.h"

#include "local_response_norm_common.h"

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
  vec_t<T> scale, k;
  Power power;

  template <class Lanes>
  FASTCONV_INLINE void operator()(int64_t i, Lanes lanes) const {
    if (step > 1) {  // rows, which the hardware does not foresee, as in forward
      prefetch(window + (rows - 1 + kRowsAhead) * step + i);
      prefetch(g + kRowsAhead * step + i);
    }
    const auto sum = sum_of_squares<kRows>(window + i, rows, step, lanes);
    const auto s = fma(scale, sum, k);
    const auto direct = load(g + i, lanes) * power(s);
    store(own + i, direct, lanes);
    store(q + i, load(x + i, lanes) * direct / s, lanes);
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
  const int64_t tile = local_response_norm_pixels_a_unit(p), tiles = div_up(p.pixels, tile);
  const int64_t rows = local_response_norm_rows(p);
  A* q = static_cast<A*>(scratch);
  A* own = q + rows * tile;
  const V scale = V::set1(p.scale), k = V::set1(p.k), factor = V::set1(-2 * p.scale * p.beta);
  const Power power(p.beta);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / tiles, first = unit % tiles * tile;
    const int64_t count = min_of(tile, p.pixels - first);
    const int64_t start = n * p.channels * p.pixels + first;
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
          for_each_vector<T>(
              count, Terms<T, T, kRows, Power>{row, window, upper, q + slot, own + slot, kRows,
                                               p.pixels, scale, k, power});
        } else {
          for_each_vector<T>(count, Terms<T, T, 0, Power>{row, window, upper, q + slot, own + slot,
                                                          w.rows, p.pixels, scale, k, power});
        }
      }
      if (const int64_t c = j - p.before; c >= 0) {
        for_each_vector<T>(count, Gather<T, T, kRows>{x + c * p.pixels, q, own + c % rows * tile,
                                                      grad + c * p.pixels, rows, tile, factor});
      }
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
  const V scale = V::set1(p.scale), k = V::set1(p.k), factor = V::set1(-2 * p.scale * p.beta);
  const Power power(p.beta);
  for (int64_t first = begin * a_unit; first < last; first += copies.count) {
    const int64_t count = min_of(copies.count, last - first);
    copies.fill(x + first * C, count);
    for (int64_t i = 0; i < count; ++i) {
      const A* pixel = copies.pixel(i);
      for_each_vector<T>(
          C, Terms<T, A, kRows, Power>{pixel, pixel - p.before, g + (first + i) * C, q.pixel(i),
                                       own.pixel(i), rows, 1, scale, k, power});
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
    } else {
      backward_nchw<T, kRows, Power>(p, scratch, begin, end);
    }
  });
}

}  // namespace

const LocalResponseNormKernels local_response_norm_backward_kernels = {run};

}  // namespace fastconv::FASTCONV_ISA
