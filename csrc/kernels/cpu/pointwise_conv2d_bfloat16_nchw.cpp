// Pointwise convolution of contiguous bfloat16 on the CPU: rows of output channels by panels of
// pixels. Two channels of a pixel lie a plane apart: a panel is copied together in pairs first.
#include "pointwise_conv2d_bfloat16_nchw.h"

#include "gemm_bfloat16.h"
#include "stage_pairs.h"

namespace fastconv::FASTCONV_ISA {
namespace {

using Params = PointwiseConv2dParams;

// As in pointwise_conv2d.cpp: pieces of the work, so that several threads get equal shares of a
// small one, each with rows of weights enough to pay for its panel.
constexpr int64_t kUnitsWanted = 16, kRowsWorthStaging = 40;

FASTCONV_INLINE int64_t pairs_of(const Params& p) {
  return div_up<int64_t>(p.in_channels, 2);
}

// The weights as the tiles read them: from an output channel to the next, from a pair of input
// channels to the next, in elements.
struct Weights {
  bool packs;
  int64_t row, pair;
};

FASTCONV_INLINE Weights weights_of(const Params& p) {
  if (p.weight_is_pairs && !kHasTiles) return {false, 2, 2 * p.weight_in_stride};
  const bool pairs_lie = !p.weight_is_pairs && p.weight_in_stride == 1 && p.in_channels % 2 == 0;
  if (pairs_lie) return {false, p.weight_out_stride, 2};
  const bool channels_lie = p.weight_out_stride == 1 && !kHasTiles;
  return {true, channels_lie ? 2 : 2 * pairs_of(p), channels_lie ? 2 * p.out_channels : 2};
}

FASTCONV_INLINE int64_t groups_of(const Params& p) {
  const int64_t panels = p.batch * pair_panel_count(p.height * p.width);
  const int64_t most = max_of<int64_t>(p.out_channels / (2 * kRowsWorthStaging), 1);
  return min_of(div_up(kUnitsWanted, panels), most);
}

FASTCONV_INLINE int64_t prepared_weights(const Params& p) {
  return weights_of(p).packs ? pairs_of(p) * p.out_channels : 0;
}

FASTCONV_INLINE bool widens_bias(const Params& p) {
  return p.bias != nullptr && !p.bias_is_float32;
}

// Pixels [pixels.first, ...) of one image: to[pair of channels][kPairColumns].
void stage_pixels(const Params& p, const bfloat16* planes, Range pixels, uint32_t* to) {
  const int64_t plane = p.in_height * p.in_width;
  if (!is_subsampled(p)) {
    return stage_pairs(planes + pixels.first, plane, 1, to, kPairColumns, p.in_channels,
                       pixels.count);
  }
  for (int64_t i = 0; i < pixels.count; ++i) {
    const int64_t h = (pixels.first + i) / p.width, w = (pixels.first + i) % p.width;
    const bfloat16* from = planes + h * p.stride_h * p.in_width + w * p.stride_w;
    for (int64_t c = 0; c < p.in_channels; c += 2) {
      const bfloat16 second = c + 1 < p.in_channels ? from[(c + 1) * plane] : bfloat16{0};
      to[c / 2 * kPairColumns + i] = pair_of(from[c * plane], second);
    }
  }
}

}  // namespace

PointwiseConv2dPlan plan_pairs_nchw(const Params& p) {
  PointwiseConv2dPlan plan{};
  const int64_t biases = widens_bias(p) ? p.out_channels : 0;
  plan.prepared_bytes = (prepared_weights(p) + biases) * sizeof(uint32_t);
  plan.prepare_units = plan.prepared_bytes > 0 ? 1 : 0;
  plan.units = p.batch * pair_panel_count(p.height * p.width) * groups_of(p);
  plan.scratch_bytes = pairs_of(p) * kPairColumns * sizeof(uint32_t);
  return plan;
}

void prepare_pairs_nchw(const Params& p, void* prepared) {
  const Weights weights = weights_of(p);
  const auto* from = static_cast<const bfloat16*>(p.weight);
  auto* to = static_cast<uint32_t*>(prepared);
  if (widens_bias(p)) {
    stage_row(static_cast<const bfloat16*>(p.bias),
              reinterpret_cast<float*>(to + prepared_weights(p)), p.out_channels);
  }
  if (!weights.packs) return;
  if (weights.row == 2) {
    return stage_pairs(from, p.weight_in_stride, 1, to, p.out_channels, p.in_channels,
                       p.out_channels);
  }
  for (int64_t o = 0; o < p.out_channels; ++o) {
    for (int64_t i = 0; i < p.in_channels; i += 2, ++to) {
      if (p.weight_is_pairs) {
        const bfloat16* pair = from + 2 * (o * p.weight_out_stride + i / 2 * p.weight_in_stride);
        *to = pair_of(pair[0], pair[1]);
      } else {
        const bfloat16* first = from + o * p.weight_out_stride + i * p.weight_in_stride;
        *to = pair_of(*first, i + 1 < p.in_channels ? first[p.weight_in_stride] : bfloat16{0});
      }
    }
  }
}

void run_pairs_nchw(const Params& p, const void* prepared, void* scratch, int64_t begin,
                    int64_t end) {
  const Weights weights = weights_of(p);
  const int64_t in_plane = p.in_height * p.in_width, plane = p.height * p.width;
  const int64_t panels = pair_panel_count(plane), groups = groups_of(p);
  const auto* weight = static_cast<const bfloat16*>(weights.packs ? prepared : p.weight);
  const auto* wide =
      reinterpret_cast<const float*>(static_cast<const uint32_t*>(prepared) + prepared_weights(p));
  const float* bias = widens_bias(p) ? wide : static_cast<const float*>(p.bias);
  auto* pixels = static_cast<uint32_t*>(scratch);
  PairTile<bfloat16> t{};
  t.a_row = weights.row, t.a_pair = weights.pair, t.pairs = pairs_of(p);
  t.b = reinterpret_cast<const bfloat16*>(pixels), t.b_row = 2 * kPairColumns;
  t.c_row = t.residual_row = plane;
  t.bias_is_per_row = true;
  set_clamp(t, p.activation);
  Tiles tiles;
  int64_t staged = -1;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t of_image = unit / groups, n = of_image / panels;
    const Range rows = part_of(p.out_channels, groups, unit % groups);
    const Range columns = pair_panel_at(of_image % panels, plane);
    if (of_image != staged) {
      const auto* planes = static_cast<const bfloat16*>(p.input) + n * p.in_channels * in_plane;
      stage_pixels(p, planes, columns, pixels);
      staged = of_image;
    }
    const int64_t offset = (n * p.out_channels + rows.first) * plane + columns.first;
    t.a = weight + rows.first * weights.row;
    t.bias = bias ? bias + rows.first : nullptr;
    t.residual = p.residual ? static_cast<const bfloat16*>(p.residual) + offset : nullptr;
    t.c = static_cast<bfloat16*>(p.output) + offset;
    t.rows = rows.count, t.columns = columns.count;
    pair_tile(tiles, t, p.activation);
  }
}

}  // namespace fastconv::FASTCONV_ISA
