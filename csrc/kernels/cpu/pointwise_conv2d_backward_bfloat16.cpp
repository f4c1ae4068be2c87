// A product over pixels in bfloat16: gradient and input are laid together by pairs of pixels.
#include "gemm_bfloat16.h"
#include "pointwise_conv2d_backward.h"
#include "stage_pairs.h"

namespace fastconv::FASTCONV_ISA {
namespace {

using Params = PointwiseConv2dWeightGradientParams;

constexpr int64_t kRow = kTileColumns<float>;
// Output channels that are laid together at a time: a vector of AVX-512.
constexpr int64_t kGradientRow = max_of<int64_t>(kPairRows, kLanes<float>);

// Elements from the input to the first channel of a pixel of the output.
FASTCONV_INLINE int64_t position_of(const Params& p, int64_t pixel) {
  const int64_t plane = p.height * p.width, n = pixel / plane;
  const int64_t h = pixel % plane / p.width, w = pixel % p.width;
  return ((n * p.in_height + h * p.stride_h) * p.in_width + w * p.stride_w) * p.in_channels;
}

void stage_input(const Params& p, Range pixels, Range panel, uint32_t* to) {
  const bfloat16* input = static_cast<const bfloat16*>(p.input) + panel.first;
  if (!is_subsampled(p)) {
    return stage_pairs(input + pixels.first * p.in_channels, p.in_channels, 1, to, kRow,
                       pixels.count, panel.count);
  }
  for (int64_t k = 0; k < pixels.count; k += 2, to += kRow) {
    const bfloat16* first = input + position_of(p, pixels.first + k);
    if (k + 1 < pixels.count) {
      zip(first, input + position_of(p, pixels.first + k + 1), to, panel.count);
    } else {
      stage_pairs(first, 0, 1, to, kRow, 1, panel.count);
    }
  }
}

}  // namespace

void multiply_pairs(const Params& p, Range pixels, Range panel, bool first, float* sums,
                    void* scratch) {
  constexpr float kInfinity = __builtin_inff();
  const bfloat16* grad =
      static_cast<const bfloat16*>(p.grad_output) + pixels.first * p.out_channels;
  uint32_t* input = static_cast<uint32_t*>(scratch);
  uint32_t* gradient = input + kBlockPixels / 2 * kRow;
  stage_input(p, pixels, panel, input);
  PairTile<float> t{};
  t.a = reinterpret_cast<const bfloat16*>(gradient), t.a_row = 2, t.a_pair = 2 * kGradientRow;
  t.b = reinterpret_cast<const bfloat16*>(input), t.b_row = 2 * kRow;
  t.pairs = div_up<int64_t>(pixels.count, 2), t.columns = panel.count;
  t.low = -kInfinity, t.high = kInfinity;
  t.c_row = t.residual_row = p.in_channels;
  for (int64_t channel = 0; channel < p.out_channels; channel += kGradientRow) {
    t.rows = min_of(kGradientRow, p.out_channels - channel);
    stage_pairs(grad + channel, p.out_channels, 1, gradient, kGradientRow, pixels.count, t.rows);
    t.c = sums + channel * p.in_channels + panel.first;
    t.residual = first ? nullptr : t.c;
    pair_tile(t);
  }
}

}  // namespace fastconv::FASTCONV_ISA
