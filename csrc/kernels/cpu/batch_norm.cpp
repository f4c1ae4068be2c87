// Batch normalisation on the CPU, forward. The mean and variance of a block are taken from the
// block's own mean while it is in the first cache, in the accumulation type; blocks are merged in
// float64 (Chan, Golub & LeVeque 1983), so that no sum cancels however far the mean is from zero.
#include "../batch_norm.h"

#include "batch_norm_common.h"

namespace fastconv::FASTCONV_ISA {
namespace {

constexpr int64_t kBlock = 8192;  // elements: 32 KiB of float32
constexpr int kGroup = 4;         // vectors of columns summed side by side

// The mean is center + mean, to more digits than either.
template <class A>
struct Moments {
  A center, mean, square;
};

// Merges a part into a whole of which it then is the fraction f.
FASTCONV_INLINE void merge(double& mean, double& var, double part_mean, double part_var, double f) {
  const double delta = part_mean - mean;
  mean += f * delta;
  var += f * (part_var - var) + f * (1 - f) * delta * delta;
}

// The moments of G vectors of columns.
template <int G, class T, class Lanes>
FASTCONV_INLINE void moments_of_columns(const T* x, int64_t rows, int64_t pitch, Lanes lanes,
                                        accumulate_t<T>* to, int64_t step) {
  using V = vec_t<T>;
  constexpr int L = kLanes<T>;
  const V scale = V::set1(accumulate_t<T>(1) / accumulate_t<T>(rows));
  V center[G], sum[G], square[G];
  for (int g = 0; g < G; ++g) center[g] = sum[g] = square[g] = V::set1(0);
  for (int64_t r = 0; r < rows; ++r) {
    for (int g = 0; g < G; ++g) center[g] = center[g] + load(x + r * pitch + g * L, lanes);
  }
  for (int g = 0; g < G; ++g) center[g] = center[g] * scale;
  for (int64_t r = 0; r < rows; ++r) {
    for (int g = 0; g < G; ++g) {
      const V d = load(x + r * pitch + g * L, lanes) - center[g];
      prefetch(x + (rows + r) * pitch + g * L);  // the next block
      sum[g] = sum[g] + d;
      square[g] = fma(d, d, square[g]);
    }
  }
  for (int g = 0; g < G; ++g) {
    store(to + g * L, center[g]);
    store(to + step + g * L, sum[g] * scale);
    store(to + 2 * step + g * L, square[g] * scale);
  }
}

// Merges the moments of rows of a group of columns into what is known of those before.
template <int G, class T, class Lanes>
FASTCONV_INLINE void merge_columns(const T* x, int64_t rows, int64_t pitch, Lanes lanes,
                                   int64_t columns, double fraction, double* mean, double* var) {
  constexpr int64_t kStep = G * kLanes<T>;
  accumulate_t<T> block[3 * kStep];
  moments_of_columns<G>(x, rows, pitch, lanes, block, kStep);
  for (int64_t i = 0; i < columns; ++i) {
    const double d = block[kStep + i];
    merge(mean[i], var[i], block[i] + d, block[2 * kStep + i] - d * d, fraction);
  }
}

template <class T>
void sums_nhwc(const BatchNormParams& p, int64_t begin, int64_t end) {
  constexpr int64_t L = kLanes<T>;
  const BatchNormUnits u(p);
  const int64_t block = max_of<int64_t>(32, kBlock / u.columns);
  for (int64_t unit = begin; unit < end; ++unit) {
    const BatchNormTile tile(p, u, unit);
    const T* x = static_cast<const T*>(p.input) + tile.start;
    std::memset(tile.first, 0, 2 * u.columns * sizeof(double));
    for (int64_t r = 0; r < tile.rows; r += block) {
      const int64_t rows = min_of(block, tile.rows - r), pitch = tile.columns;
      const double fraction = double(rows) / double(r + rows);
      const T* from = x + r * pitch;
      int64_t i = 0;
      for (; i + kGroup * L <= pitch; i += kGroup * L) {
        merge_columns<kGroup>(from + i, rows, pitch, AllLanes{}, kGroup * L, fraction,
                              tile.first + i, tile.second + i);
      }
      for (; i < pitch; i += L) {
        const int64_t n = min_of(L, pitch - i);
        merge_columns<1>(from + i, rows, pitch, FirstLanes{n}, n, fraction, tile.first + i,
                         tile.second + i);
      }
    }
  }
}

template <class T>
void sums_nchw(const BatchNormParams& p, int64_t begin, int64_t end) {
  using V = vec_t<T>;
  constexpr int64_t L = kLanes<T>;
  const BatchNormUnits u(p);
  for (int64_t unit = begin; unit < end; ++unit) {
    const BatchNormTile tile(p, u, unit);
    const T* x = static_cast<const T*>(p.input) + tile.start;
    const int64_t n = tile.columns, whole = n / (kGroup * L) * (kGroup * L);
    V sum[kGroup], square[kGroup];
    for (int g = 0; g < kGroup; ++g) sum[g] = square[g] = V::set1(0);
    for (int64_t i = 0; i < whole; i += kGroup * L) {
      for (int g = 0; g < kGroup; ++g) sum[g] = sum[g] + load(x + i + g * L);
    }
    for (int64_t i = whole; i < n; i += L) {
      sum[0] = sum[0] + load_partial(x + i, min_of(L, n - i));
    }
    const double first = reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3]));
    const auto center = static_cast<accumulate_t<T>>(first / double(n));
    const V k = V::set1(center), one = V::set1(1);
    for (int g = 0; g < kGroup; ++g) sum[g] = V::set1(0);
    for (int64_t i = 0; i < whole; i += kGroup * L) {
      for (int g = 0; g < kGroup; ++g) {
        const V d = load(x + i + g * L) - k;
        sum[g] = sum[g] + d;
        square[g] = fma(d, d, square[g]);
      }
    }
    for (int64_t i = whole; i < n; i += L) {
      const int64_t count = min_of(L, n - i);
      const auto mask = V::mask({0, count});
      const V d = load_partial(x + i, count) - k;
      sum[0] = fma_range(d, one, sum[0], mask);
      square[0] = fma_range(d, d, square[0], mask);
    }
    const double mean = reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3])) / double(n);
    const double squares = reduce_add((square[0] + square[1]) + (square[2] + square[3]));
    *tile.first = center + mean;
    *tile.second = squares / double(n) - mean * mean;
  }
}

void sums(const BatchNormParams& p, int64_t begin, int64_t end) {
  dispatch_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    if (p.layout == Layout::kNHWC) {
      sums_nhwc<T>(p, begin, end);
    } else {
      sums_nchw<T>(p, begin, end);
    }
  });
}

// The slabs' moments column by column, then those of the columns of a channel.
template <class A>
void finish_statistics(const BatchNormParams& p) {
  const BatchNormUnits u(p);
  const bool nhwc = p.layout == Layout::kNHWC;
  double *mean = p.partials, *var = mean + u.columns;
  const int64_t whole = u.slabs - (u.rest > 0);
  for (int64_t s = 1; s < whole; ++s) {
    const int64_t before = nhwc ? s * u.rows_a_unit : s;
    const int64_t after = nhwc ? min_of(before + u.rows_a_unit, u.rows) : s + 1;
    const double fraction = double(after - before) / double(after);
    const double *part_mean = mean + 2 * s * u.columns, *part_var = part_mean + u.columns;
    for (int64_t i = 0; i < u.columns; ++i) {
      merge(mean[i], var[i], part_mean[i], part_var[i], fraction);
    }
  }
  const double* rest = mean + 2 * whole * u.columns;
  const int64_t pixels = nhwc ? (whole > 0 ? u.columns / p.channels : 0) : u.parts;
  for (int64_t c = 0; c < p.channels; ++c) {
    double m = 0, v = 0, count = 0;
    const auto add = [&](double part_mean, double part_var, int64_t part) {
      count += double(part);
      merge(m, v, part_mean, part_var, double(part) / count);
    };
    for (int64_t i = 0; i < pixels; ++i) {
      const int64_t j = nhwc ? i * p.channels + c : c * u.parts + i;
      add(mean[j], var[j],
          nhwc ? u.rows : u.slabs * min_of(kBatchNormPart, p.pixels - i * kBatchNormPart));
    }
    for (int64_t i = 0; i < u.rest; ++i) add(rest[i * p.channels + c], 0, 1);
    static_cast<A*>(p.mean)[c] = A(m);
    static_cast<A*>(p.var)[c] = A(v);
  }
}

void finish(const BatchNormParams& p) {
  p.dtype == DType::kFloat64 ? finish_statistics<double>(p) : finish_statistics<float>(p);
}

template <class T, class Act, template <class> class Of>
struct NormaliseRow {
  using A = accumulate_t<T>;
  const T* x;
  T* y;
  Of<A> mean, scale, shift;

  template <class Lanes>
  FASTCONV_INLINE void operator()(int64_t i, Lanes lanes) const {
    const auto centered = load(x + i, lanes) - mean(i, lanes);
    store(y + i, Act::forward(fma(centered, scale(i, lanes), shift(i, lanes))), lanes);
  }
};

template <template <class> class Of, class T, class Act>
void normalise(const BatchNormParams& p, int64_t begin, int64_t end) {
  using A = accumulate_t<T>;
  const T* x = static_cast<const T*>(p.input);
  T* y = static_cast<T*>(p.output);
  const Coefficients<A> by(p);
  walk_rows<T>(p, begin, end, [&](const BatchNormTile& tile, int64_t start) {
    const int64_t c = tile.channel;
    return NormaliseRow<T, Act, Of>{x + start, y + start, Of<A>{by.mean + c}, Of<A>{by.scale + c},
                                    Of<A>{by.shift + c}};
  });
}

void fold(const BatchNormParams& p) {
  p.dtype == DType::kFloat64 ? fold_forward<double>(p) : fold_forward<float>(p);
}

void apply(const BatchNormParams& p, int64_t begin, int64_t end) {
  dispatch_batch_norm(p, [&](auto element, auto act) {
    using T = decltype(element);
    if (p.layout == Layout::kNHWC) {
      normalise<OfColumns, T, decltype(act)>(p, begin, end);
    } else {
      normalise<OfChannel, T, decltype(act)>(p, begin, end);
    }
  });
}

}  // namespace

const BatchNormKernels batch_norm_kernels = {sums, finish, fold, apply};

}  // namespace fastconv::FASTCONV_ISA
