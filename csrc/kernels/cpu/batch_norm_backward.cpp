// The gradient of batch normalisation on the CPU. With d = x - mean, r = 1 / sqrt(var + eps), g the
// gradient past the activation, and sums over the n elements of a channel,
//   grad_bias = sum g, grad_weight = r sum g d,
//   grad_x = weight r (g - sum g / n - d r^2 sum g d / n);
// with given statistics only the first term.
#include "../batch_norm.h"

#include "batch_norm_common.h"

namespace fastconv::FASTCONV_ISA {
namespace {

constexpr int64_t kRows = 64;  // summed in the accumulation type, then in float64
constexpr int kGroup = 2;      // vectors of columns summed side by side

template <class T, class Act, template <class> class Of>
struct Terms {
  using A = accumulate_t<T>;
  using V = vec_t<T>;
  const T *x, *grad;
  Of<A> mean, scale, shift;

  // g and d of element i, by the coefficients of column `at`.
  template <class Lanes>
  FASTCONV_INLINE void get(int64_t i, int64_t at, Lanes lanes, V& g, V& d) const {
    d = load(x + i, lanes) - mean(at, lanes);
    g = Act::backward(load(grad + i, lanes), fma(d, scale(at, lanes), shift(at, lanes)));
  }
};

// Adds the sums over rows of G vectors of columns.
template <int G, class T, class Act, class Lanes>
FASTCONV_INLINE void add_columns(const Terms<T, Act, OfColumns>& terms, int64_t column,
                                 int64_t rows, int64_t pitch, Lanes lanes, int64_t columns,
                                 double* sum, double* product) {
  using V = vec_t<T>;
  constexpr int L = kLanes<T>;
  V s[G], q[G];
  for (int k = 0; k < G; ++k) s[k] = q[k] = V::set1(0);
  for (int64_t r = 0; r < rows; ++r) {
    for (int k = 0; k < G; ++k) {
      V g, d;
      const int64_t i = r * pitch + column + k * L;
      terms.get(i, column + k * L, lanes, g, d);
      prefetch(terms.x + rows * pitch + i);
      prefetch(terms.grad + rows * pitch + i);
      s[k] = s[k] + g;
      q[k] = fma(g, d, q[k]);
    }
  }
  accumulate_t<T> block[2][G * L];
  for (int k = 0; k < G; ++k) {
    store(block[0] + k * L, s[k]);
    store(block[1] + k * L, q[k]);
  }
  for (int64_t i = 0; i < columns; ++i) {
    sum[column + i] += block[0][i];
    product[column + i] += block[1][i];
  }
}

template <class T, class Act>
void sums_nhwc(const BatchNormParams& p, int64_t begin, int64_t end) {
  using A = accumulate_t<T>;
  constexpr int64_t L = kLanes<T>;
  const BatchNormUnits u(p);
  const Coefficients<A> by(p);
  for (int64_t unit = begin; unit < end; ++unit) {
    const BatchNormTile tile(p, u, unit);
    const int64_t pitch = tile.columns;
    std::memset(tile.first, 0, 2 * u.columns * sizeof(double));
    for (int64_t r = 0; r < tile.rows; r += kRows) {
      const int64_t rows = min_of(kRows, tile.rows - r), start = tile.start + r * pitch;
      const Terms<T, Act, OfColumns> terms{static_cast<const T*>(p.input) + start,
                                           static_cast<const T*>(p.grad_output) + start,
                                           {by.mean},
                                           {by.scale},
                                           {by.shift}};
      int64_t i = 0;
      for (; i + kGroup * L <= pitch; i += kGroup * L) {
        add_columns<kGroup>(terms, i, rows, pitch, AllLanes{}, kGroup * L, tile.first, tile.second);
      }
      for (; i < pitch; i += L) {
        const int64_t n = min_of(L, pitch - i);
        add_columns<1>(terms, i, rows, pitch, FirstLanes{n}, n, tile.first, tile.second);
      }
    }
  }
}

template <class T, class Act>
void sums_nchw(const BatchNormParams& p, int64_t begin, int64_t end) {
  using A = accumulate_t<T>;
  using V = vec_t<T>;
  constexpr int64_t L = kLanes<T>;
  const BatchNormUnits u(p);
  const Coefficients<A> by(p);
  for (int64_t unit = begin; unit < end; ++unit) {
    const BatchNormTile tile(p, u, unit);
    const int64_t n = tile.columns, c = tile.channel;
    const Terms<T, Act, OfChannel> terms{static_cast<const T*>(p.input) + tile.start,
                                         static_cast<const T*>(p.grad_output) + tile.start,
                                         OfChannel<A>{by.mean + c}, OfChannel<A>{by.scale + c},
                                         OfChannel<A>{by.shift + c}};
    V s[kGroup], q[kGroup], g, d;
    for (int k = 0; k < kGroup; ++k) s[k] = q[k] = V::set1(0);
    int64_t i = 0;
    for (; i + kGroup * L <= n; i += kGroup * L) {
      for (int k = 0; k < kGroup; ++k) {
        terms.get(i + k * L, 0, AllLanes{}, g, d);
        s[k] = s[k] + g;
        q[k] = fma(g, d, q[k]);
      }
    }
    for (; i < n; i += L) {  // lanes past the end have a gradient of zero
      terms.get(i, 0, FirstLanes{min_of(L, n - i)}, g, d);
      s[0] = s[0] + g;
      q[0] = fma(g, d, q[0]);
    }
    *tile.first = reduce_add(s[0] + s[1]);
    *tile.second = reduce_add(q[0] + q[1]);
  }
}

void sums(const BatchNormParams& p, int64_t begin, int64_t end) {
  dispatch_batch_norm(p, [&](auto element, auto act) {
    using T = decltype(element);
    if (p.layout == Layout::kNHWC) {
      sums_nhwc<T, decltype(act)>(p, begin, end);
    } else {
      sums_nchw<T, decltype(act)>(p, begin, end);
    }
  });
}

// Adds up slabs, then the columns of a channel; the sums of channel c stay in its first column for
// `fold`. Columns that a slab of few pixels has not are zero.
template <class A>
void finish_sums(const BatchNormParams& p) {
  const BatchNormUnits u(p);
  const int64_t step = p.layout == Layout::kNHWC ? p.channels : 1;
  const int64_t own = p.layout == Layout::kNHWC ? 1 : u.parts, count = u.columns / p.channels;
  double* total = p.partials;
  for (int64_t s = 1; s < u.slabs; ++s) {
    for (int64_t i = 0; i < 2 * u.columns; ++i) total[i] += total[2 * s * u.columns + i];
  }
  for (int64_t c = 0; c < p.channels; ++c) {
    double *sum = total + c * own, *product = sum + u.columns;
    for (int64_t i = 1; i < count; ++i) {
      *sum += sum[i * step];
      *product += product[i * step];
    }
    const double inverse = inverse_deviation(static_cast<const A*>(p.var)[c], p.eps);
    static_cast<A*>(p.grad_weight)[c] = A(*product * inverse);
    static_cast<A*>(p.grad_bias)[c] = A(*sum);
  }
}

void finish(const BatchNormParams& p) {
  p.dtype == DType::kFloat64 ? finish_sums<double>(p) : finish_sums<float>(p);
}

// grad_x = g scale + d slope + offset; the sums are needed in training only.
template <class A>
void fold_backward(const BatchNormParams& p) {
  const BatchNormUnits u(p);
  const Coefficients<A> to(p);
  const int64_t own = p.layout == Layout::kNHWC ? 1 : u.parts;
  const double count = double(p.batch * p.pixels);
  for (int64_t c = 0; c < p.channels; ++c) {
    const double *sum = p.partials + c * own, *product = sum + u.columns;
    const double inverse = inverse_deviation(static_cast<const A*>(p.var)[c], p.eps);
    to.slope[c] = A(-to.scale[c] * inverse * inverse * *product / count);
    to.offset[c] = A(-to.scale[c] * *sum / count);
  }
  repeat(to.slope, p.channels, to.width);
  repeat(to.offset, p.channels, to.width);
}

void fold(const BatchNormParams& p) {
  p.dtype == DType::kFloat64 ? fold_backward<double>(p) : fold_backward<float>(p);
}

template <class T, class Act, template <class> class Of, bool kTraining>
struct GradientRow {
  using A = accumulate_t<T>;
  Terms<T, Act, Of> terms;
  T* out;
  Of<A> slope, offset;

  template <class Lanes>
  FASTCONV_INLINE void operator()(int64_t i, Lanes lanes) const {
    vec_t<T> g, d;
    terms.get(i, i, lanes, g, d);
    const auto scale = terms.scale(i, lanes);
    if constexpr (kTraining) {
      store(out + i, fma(g, scale, fma(d, slope(i, lanes), offset(i, lanes))), lanes);
    } else {
      store(out + i, g * scale, lanes);
    }
  }
};

template <template <class> class Of, bool kTraining, class T, class Act>
void gradient(const BatchNormParams& p, int64_t begin, int64_t end) {
  using A = accumulate_t<T>;
  const T *x = static_cast<const T*>(p.input), *grad = static_cast<const T*>(p.grad_output);
  T* out = static_cast<T*>(p.output);
  const Coefficients<A> by(p);
  walk_rows<T>(p, begin, end, [&](const BatchNormTile& tile, int64_t start) {
    const int64_t c = tile.channel;
    const Terms<T, Act, Of> terms{x + start, grad + start, Of<A>{by.mean + c}, Of<A>{by.scale + c},
                                  Of<A>{by.shift + c}};
    return GradientRow<T, Act, Of, kTraining>{terms, out + start, Of<A>{by.slope + c},
                                              Of<A>{by.offset + c}};
  });
}

template <template <class> class Of>
void apply_to(const BatchNormParams& p, int64_t begin, int64_t end) {
  dispatch_batch_norm(p, [&](auto element, auto act) {
    using T = decltype(element);
    if (p.training) {
      gradient<Of, true, T, decltype(act)>(p, begin, end);
    } else {
      gradient<Of, false, T, decltype(act)>(p, begin, end);
    }
  });
}

void apply(const BatchNormParams& p, int64_t begin, int64_t end) {
  p.layout == Layout::kNHWC ? apply_to<OfColumns>(p, begin, end)
                            : apply_to<OfChannel>(p, begin, end);
}

}  // namespace

const BatchNormKernels batch_norm_backward_kernels = {sums, finish, fold, apply};

}  // namespace fastconv::FASTCONV_ISA
