// The classifier of a network: few pixels against many weights, which pass once from memory. Both
// lie as rows over the input channels; every output is the dot product of two of them.
#include "pointwise_conv2d_panel.h"
#include "simd/pairs.h"
#include "simd/vectors.h"

namespace fastconv::FASTCONV_ISA {
namespace {

// Pixels and rows of weights that share their loads: 16 accumulators, and 8 for a single pixel.
constexpr int kPixels = 4;
template <int P>
constexpr int kWeightRows = P == 1 ? 8 : 4;

// Elements of a row that one step multiplies: a vector of them, in bfloat16 of pairs of them.
template <class T>
constexpr int64_t kStep = kLanes<T>;
template <>
constexpr int64_t kStep<bfloat16> = 2 * kLanes<float>;

template <class T, class Lanes>
FASTCONV_INLINE auto load_step(const T* p, Lanes lanes) {
  return load(p, lanes);
}

FASTCONV_INLINE VecPairs load_step(const bfloat16* p, AllLanes) {
  return load_pairs(p);
}

FASTCONV_INLINE VecPairs load_step(const bfloat16* p, FirstLanes lanes) {
  return load_pairs_partial(p, lanes.n / 2);
}

FASTCONV_INLINE VecF fma(VecPairs a, VecPairs b, VecF c) {
  return fma_pairs(a, b, c);
}

// sums[i * kDotOutputs + j] = sum over k of x[i][k] * w[j][k], for P pixels and R rows of weights.
// The rows that come next are fetched meanwhile, for the processor's own fetching stops at every
// page: 2048 x 1000 from memory by 1 pixel 127 to 114 us, by 4 pixels 163 to 147; 1280 x 1000 by 1
// pixel 80 to 66 (kernel alone, two threads, Zen 5).
template <class T, int P, int R>
FASTCONV_INLINE void dot_products(const T* x, const T* w, const PointwiseConv2dParams& p,
                                  accumulate_t<T>* sums) {
  using V = vec_t<T>;
  const int64_t depth = p.in_channels, w_row = p.weight_out_stride;
  V acc[P][R];
  for (int i = 0; i < P; ++i) {
    for (int j = 0; j < R; ++j) acc[i][j] = V::set1(0);
  }
  const auto step = [&](int64_t k, auto lanes) __attribute__((always_inline)) {
    decltype(load_step(x, lanes)) xs[P];
#pragma GCC unroll 4
    for (int i = 0; i < P; ++i) xs[i] = load_step(x + i * depth + k, lanes);
#pragma GCC unroll 8
    for (int j = 0; j < R; ++j) {
      const auto row = load_step(w + j * w_row + k, lanes);
      __builtin_prefetch(w + (j + R) * w_row + k);
#pragma GCC unroll 4
      for (int i = 0; i < P; ++i) acc[i][j] = fma(xs[i], row, acc[i][j]);
    }
  };
  int64_t k = 0;
  for (; k + kStep<T> <= depth; k += kStep<T>) step(k, AllLanes{});
  if (k < depth) step(k, FirstLanes{depth - k});
  const bool lacks_one = kStep<T> > kLanes<T> && depth % 2 != 0;
  for (int i = 0; i < P; ++i) {
    for (int j = 0; j < R; ++j) {
      auto sum = reduce_add(acc[i][j]);
      if (lacks_one) sum += widen(x[(i + 1) * depth - 1]) * widen(w[j * w_row + depth - 1]);
      sums[i * kDotOutputs + j] = sum;
    }
  }
}

// P pixels against the outputs of a unit.
template <class T, int P>
void multiply(const PointwiseConv2dParams& p, int64_t pixel, Range outputs) {
  constexpr int R = kWeightRows<P>;
  const T* x = static_cast<const T*>(p.input) + pixel * p.in_channels;
  const T* weight = static_cast<const T*>(p.weight) + outputs.first * p.weight_out_stride;
  const T* bias = p.bias ? static_cast<const T*>(p.bias) + outputs.first : nullptr;
  accumulate_t<T> sums[P][kDotOutputs];
  int64_t j = 0;
  for (; j + R <= outputs.count; j += R) {
    dot_products<T, P, R>(x, weight + j * p.weight_out_stride, p, &sums[0][j]);
  }
  for (; j < outputs.count; ++j) {
    dot_products<T, P, 1>(x, weight + j * p.weight_out_stride, p, &sums[0][j]);
  }
  for (int i = 0; bias != nullptr && i < P; ++i) {
    for (j = 0; j < outputs.count; ++j) sums[i][j] += widen(bias[j]);
  }
  const int64_t offset = pixel * p.out_channels + outputs.first;
  const T* residual = p.residual ? static_cast<const T*>(p.residual) + offset : nullptr;
  T* output = static_cast<T*>(p.output) + offset;
  dispatch_activation(p.activation, [&](auto act) {
    finish<T, decltype(act)>(sums[0], kDotOutputs, P, outputs.count, residual, output,
                             p.out_channels);
  });
}

template <class T>
void run(const PointwiseConv2dParams& p, int64_t begin, int64_t end) {
  const int64_t pixels = pixels_of(p);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = unit * kDotOutputs;
    const Range outputs{first, min_of(kDotOutputs, p.out_channels - first)};
    int64_t pixel = 0;
    for (; pixel + kPixels <= pixels; pixel += kPixels) multiply<T, kPixels>(p, pixel, outputs);
    if (pixels - pixel == 3) multiply<T, 3>(p, pixel, outputs);
    if (pixels - pixel == 2) multiply<T, 2>(p, pixel, outputs);
    if (pixels - pixel == 1) multiply<T, 1>(p, pixel, outputs);
  }
}

}  // namespace

void pointwise_dots(const PointwiseConv2dParams& p, int64_t begin, int64_t end) {
  dispatch_dtype(p.dtype, [&](auto element) { run<decltype(element)>(p, begin, end); });
}

}  // namespace fastconv::FASTCONV_ISA
