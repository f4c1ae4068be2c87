// The classifier of a network: few pixels against many weights, which pass once from memory. Both
// lie as rows over the input channels; every output is the dot product of two of them.
#include "pointwise_conv2d_panel.h"
#include "simd/vectors.h"

namespace fastconv::FASTCONV_ISA {
namespace {

// Pixels and rows of weights that share their loads: 16 accumulators, and 8 for a single pixel.
constexpr int kPixels = 4;
template <int P>
constexpr int kWeightRows = P == 1 ? 8 : 4;

// sums[i * kDotOutputs + j] = sum over k of x[i][k] * w[j][k], for P pixels and R rows of weights.
// The rows that come next are fetched meanwhile, for the processor's own fetching stops at every
// page: 2048 x 1000 from memory by 1 pixel 127 to 114 us, by 4 pixels 163 to 147; 1280 x 1000 by 1
// pixel 80 to 66 (kernel alone, two threads, Zen 5).
template <class S, int P, int R>
FASTCONV_INLINE void dot_products(const S* x, const S* w, const PointwiseConv2dParams& p, S* sums) {
  using V = vec_t<S>;
  constexpr int64_t L = kLanes<S>;
  const int64_t depth = p.in_channels, w_row = p.weight_out_stride;
  V acc[P][R];
  for (int i = 0; i < P; ++i) {
    for (int j = 0; j < R; ++j) acc[i][j] = V::set1(0);
  }
  const auto step = [&](int64_t k, auto lanes) __attribute__((always_inline)) {
    V xs[P];
#pragma GCC unroll 4
    for (int i = 0; i < P; ++i) xs[i] = load(x + i * depth + k, lanes);
#pragma GCC unroll 8
    for (int j = 0; j < R; ++j) {
      const V row = load(w + j * w_row + k, lanes);
      __builtin_prefetch(w + (j + R) * w_row + k);
#pragma GCC unroll 4
      for (int i = 0; i < P; ++i) acc[i][j] = fma(xs[i], row, acc[i][j]);
    }
  };
  int64_t k = 0;
  for (; k + L <= depth; k += L) step(k, AllLanes{});
  if (k < depth) step(k, FirstLanes{depth - k});
  for (int i = 0; i < P; ++i) {
    for (int j = 0; j < R; ++j) sums[i * kDotOutputs + j] = reduce_add(acc[i][j]);
  }
}

// P pixels against the outputs of a unit.
template <class S, int P>
void multiply(const PointwiseConv2dParams& p, int64_t pixel, Range outputs) {
  constexpr int R = kWeightRows<P>;
  const S* x = static_cast<const S*>(p.input) + pixel * p.in_channels;
  const S* weight = static_cast<const S*>(p.weight) + outputs.first * p.weight_out_stride;
  const S* bias = p.bias ? static_cast<const S*>(p.bias) + outputs.first : nullptr;
  S sums[P][kDotOutputs];
  int64_t j = 0;
  for (; j + R <= outputs.count; j += R) {
    dot_products<S, P, R>(x, weight + j * p.weight_out_stride, p, &sums[0][j]);
  }
  for (; j < outputs.count; ++j) {
    dot_products<S, P, 1>(x, weight + j * p.weight_out_stride, p, &sums[0][j]);
  }
  for (int i = 0; bias != nullptr && i < P; ++i) {
    for (j = 0; j < outputs.count; ++j) sums[i][j] += bias[j];
  }
  const int64_t offset = pixel * p.out_channels + outputs.first;
  const S* residual = p.residual ? static_cast<const S*>(p.residual) + offset : nullptr;
  S* output = static_cast<S*>(p.output) + offset;
  dispatch_activation(p.activation, [&](auto act) {
    finish<S, decltype(act)>(sums[0], kDotOutputs, P, outputs.count, residual, output,
                             p.out_channels);
  });
}

template <class S>
void run(const PointwiseConv2dParams& p, int64_t begin, int64_t end) {
  const int64_t pixels = pixels_of(p);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = unit * kDotOutputs;
    const Range outputs{first, min_of(kDotOutputs, p.out_channels - first)};
    int64_t pixel = 0;
    for (; pixel + kPixels <= pixels; pixel += kPixels) multiply<S, kPixels>(p, pixel, outputs);
    if (pixels - pixel == 3) multiply<S, 3>(p, pixel, outputs);
    if (pixels - pixel == 2) multiply<S, 2>(p, pixel, outputs);
    if (pixels - pixel == 1) multiply<S, 1>(p, pixel, outputs);
  }
}

}  // namespace

void pointwise_dots(const PointwiseConv2dParams& p, int64_t begin, int64_t end) {
  p.dtype == DType::kFloat64 ? run<double>(p, begin, end) : run<float>(p, begin, end);
}

}  // namespace fastconv::FASTCONV_ISA
