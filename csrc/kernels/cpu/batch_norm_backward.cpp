// The gradient of batch normalisation on the CPU. With d = x - mean, r = 1 / sqrt(var + eps), g the
// gradient past the activation, and sums over the n elements of a channel,
//   grad_bias = sum g, grad_weight = r sum g d,
//   grad_x = weight r (g - sum g / n - d r^2 sum g d / n);
// with given statistics only the first term.
#include "../batch_norm.h"

#include "batch_norm_common.h"

namespace fastconv::FASTCONV_ISA {
namespace {

constexpr int64_t kRows = 64;       // summed in the accumulation type, then in float64
constexpr int64_t kColumns = 1024;  // whose sums are 8 KiB of float32
constexpr int kTogether = 2;        // rows whose terms are added at once
constexpr int kGroup = 2;           // NCHW: vectors summed side by side

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

// Adds R rows of n columns to `sum` and `product`.
template <int R, class T, class Act>
FASTCONV_INLINE void add_rows(const Terms<T, Act, OfColumns>& terms, int64_t pitch, int64_t n,
                              accumulate_t<T>* sum, accumulate_t<T>* product) {
  using V = vec_t<T>;
  for_each_vector<T>(n, [&](int64_t i, auto lanes) {
    V s = load(sum + i), q = load(product + i), g, d;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      terms.get(r * pitch + i, i, lanes, g, d);
      s = s + g;
      q = fma(g, d, q);
    }
    store(sum + i, s);
    store(product + i, q);
  });
}

// Rows are walked as they lie, so that the processor fetches them ahead, and the sums of so many
// columns stay in the first cache. Us of the sums, two columns of vectors down 64 rows with
// prefetches / so, on two cores of an Intel Xeon with AMX: 16x384x14x14 247 / 233, 16x576x14x14
// 363 / 316, 16x960x7x7 191 / 147, 16x192x28x28 462 / 405, 16x32x112x112 1151 / 988.
template <class T, class Act>
void sums_nhwc(const BatchNormParams& p, int64_t begin, int64_t end) {
  using A = accumulate_t<T>;
  const BatchNormUnits u(p);
  const Coefficients<A> by(p);
  alignas(64) A added[2][kColumns];
  for (int64_t unit = begin; unit < end; ++unit) {
    const BatchNormTile tile(p, u, unit);
    const int64_t pitch = tile.columns;
    std::memset(tile.first, 0, 2 * u.columns * sizeof(double));
    for (int64_t block = 0; block < tile.rows; block += kRows) {
      const int64_t rows = min_of(kRows, tile.rows - block);
      for (int64_t column = 0; column < pitch; column += kColumns) {
        const int64_t n = min_of(kColumns, pitch - column);
        const int64_t start = tile.start + block * pitch + column;
        Terms<T, Act, OfColumns> terms{static_cast<const T*>(p.input) + start,
                                       static_cast<const T*>(p.grad_output) + start,
                                       {by.mean + column},
                                       {by.scale + column},
                                       {by.shift + column}};
        std::memset(added, 0, sizeof(added));
        int64_t r = 0;
        for (; r + kTogether <= rows; r += kTogether) {
          add_rows<kTogether>(terms, pitch, n, added[0], added[1]);
          terms.x += kTogether * pitch, terms.grad += kTogether * pitch;
        }
        for (; r < rows; ++r) {
          add_rows<1>(terms, pitch, n, added[0], added[1]);
          terms.x += pitch, terms.grad += pitch;
        }
        for (int64_t i = 0; i < n; ++i) {
          tile.first[column + i] += added[0][i];
          tile.second[column + i] += added[1][i];
        }
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
