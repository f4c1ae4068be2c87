// Pointwise convolution of bfloat16 on the CPU, here channels_last: tiles of a matrix product
// straight from and to the tensors; pixels are copied together only where a stride or an odd number
// of channels asks for it.
#include <cstring>

#include "../pointwise_conv2d.h"
#include "gemm_bfloat16.h"
#include "pointwise_conv2d_bfloat16_nchw.h"
#include "registry.h"
#include "stage_pairs.h"
#include "streaming.h"

namespace fastconv::FASTCONV_ISA {
namespace {

using Params = PointwiseConv2dParams;

// A group of pixels passes over one panel of the weights after the other: as many pixels as stay in
// the L1 cache, or in the L2 cache where the weights do not.
constexpr int64_t kWeightBytesInCache = 256 << 10;
constexpr int64_t kGroupBytes = 16 << 10, kLargeGroupBytes = 256 << 10, kGroupTiles = 3;
// Pieces of the work, so that several threads get equal shares of a small one.
constexpr int64_t kUnitsWanted = 16;

FASTCONV_INLINE int64_t pairs_of(const Params& p) {
  return div_up<int64_t>(p.in_channels, 2);
}

FASTCONV_INLINE bool gathers(const Params& p) {
  return is_subsampled(p) || p.in_channels % 2 != 0;
}

// The units: groups of pixels, in them panels.
struct Grid {
  int64_t rows, tiles, groups, panels;

  FASTCONV_INLINE Range group(int64_t i) const {  // of whole tiles but the last
    const Range part = part_of(tiles, groups, i);
    const int64_t first = part.first * kPairRows;
    return {first, min_of(rows, (part.first + part.count) * kPairRows) - first};
  }
  FASTCONV_INLINE int64_t most_rows() const { return div_up(tiles, groups) * kPairRows; }
};

Grid grid_of(const Params& p) {
  const int64_t rows = p.batch * p.height * p.width, panels = pair_panel_count(p.out_channels);
  const int64_t tile_bytes = p.in_channels * kPairRows * int64_t(sizeof(bfloat16));
  const int64_t tiles = div_up<int64_t>(rows, kPairRows);
  const bool weights_stay =
      p.in_channels * p.out_channels * int64_t(sizeof(bfloat16)) <= kWeightBytesInCache;
  const int64_t bytes = weights_stay || gathers(p) ? kGroupBytes : kLargeGroupBytes;
  const int64_t fit = max_of<int64_t>(bytes / tile_bytes, kGroupTiles);
  const int64_t groups = max_of(div_up(tiles, fit), div_up(kUnitsWanted, panels));
  return {rows, tiles, min_of(groups, tiles), panels};
}

PointwiseConv2dPlan plan(const Params& p) {
  if (p.layout == Layout::kNCHW) return plan_pairs_nchw(p);
  const Grid grid = grid_of(p);
  PointwiseConv2dPlan plan{};
  if (!p.weight_is_pairs) {
    plan.prepare_units = grid.panels;
    plan.prepared_bytes = pairs_of(p) * p.out_channels * sizeof(uint32_t);
  }
  plan.units = grid.groups * grid.panels;
  plan.scratch_bytes = gathers(p) ? grid.most_rows() * pairs_of(p) * sizeof(uint32_t) : 0;
  return plan;
}

void prepare(const Params& p, void* prepared, int64_t begin, int64_t end) {
  if (p.layout == Layout::kNCHW) return prepare_pairs_nchw(p, prepared);
  const bfloat16* weight = static_cast<const bfloat16*>(p.weight);
  for (int64_t unit = begin; unit < end; ++unit) {
    const Range panel = pair_panel_at(unit, p.out_channels);
    stage_pairs(weight + panel.first * p.weight_out_stride, p.weight_in_stride, p.weight_out_stride,
                static_cast<uint32_t*>(prepared) + panel.first, p.out_channels, p.in_channels,
                panel.count);
  }
}

// Copies the pixels of a group together, an odd number of channels with a zero behind it.
void gather_pixels(const Params& p, Range rows, bfloat16* to) {
  const int64_t padded = 2 * pairs_of(p);
  for (int64_t i = 0; i < rows.count; ++i, to += padded) {
    const int64_t row = (rows.first + i) / p.width, w = (rows.first + i) % p.width;
    const int64_t n = row / p.height, h = row % p.height;
    const int64_t pixel = (n * p.in_height + h * p.stride_h) * p.in_width + w * p.stride_w;
    const bfloat16* from = static_cast<const bfloat16*>(p.input) + pixel * p.in_channels;
    std::memcpy(static_cast<void*>(to), from, p.in_channels * sizeof(bfloat16));
    if (p.in_channels < padded) to[p.in_channels] = bfloat16{0};
  }
}

// The biases of a panel: where they are, or widened to `wide`.
FASTCONV_INLINE const float* bias_of(const Params& p, Range panel, float* wide) {
  if (p.bias == nullptr) return nullptr;
  if (p.bias_is_float32) return static_cast<const float*>(p.bias) + panel.first;
  stage_row(static_cast<const bfloat16*>(p.bias) + panel.first, wide, panel.count);
  return wide;
}

void run(const Params& p, const void* prepared, void* scratch, int64_t begin, int64_t end) {
  if (p.layout == Layout::kNCHW) return run_pairs_nchw(p, prepared, scratch, begin, end);
  const Grid grid = grid_of(p);
  const bfloat16* weight = static_cast<const bfloat16*>(p.weight_is_pairs ? p.weight : prepared);
  const bfloat16* residual = static_cast<const bfloat16*>(p.residual);
  bfloat16* pixels = static_cast<bfloat16*>(scratch);
  float wide_bias[kPairColumns];
  PairTile<bfloat16> t{};
  t.a_pair = 2, t.pairs = pairs_of(p);
  t.b_row = 2 * (p.weight_is_pairs ? p.weight_in_stride : p.out_channels);
  t.c_row = t.residual_row = p.out_channels;
  t.streams = wants_stream<bfloat16>(p.output, p.batch * p.height * p.width, p.out_channels);
  set_clamp(t, p.activation);
  Tiles tiles;
  int64_t gathered = -1;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t group = unit / grid.panels;
    const Range rows = grid.group(group);
    const Range panel = pair_panel_at(unit % grid.panels, p.out_channels);
    if (gathers(p)) {
      if (group != gathered) gather_pixels(p, rows, pixels);
      gathered = group;
      t.a = pixels, t.a_row = 2 * pairs_of(p);
    } else {
      t.a = static_cast<const bfloat16*>(p.input) + rows.first * p.in_channels;
      t.a_row = p.in_channels;
    }
    t.bias = bias_of(p, panel, wide_bias);
    const int64_t offset = rows.first * p.out_channels + panel.first;
    t.b = weight + 2 * panel.first;
    t.residual = residual ? residual + offset : nullptr;
    t.c = static_cast<bfloat16*>(p.output) + offset;
    t.rows = rows.count, t.columns = panel.count;
    pair_tile(tiles, t, p.activation);
  }
  stream_fence();
}

}  // namespace

const PointwiseConv2dKernels pointwise_conv2d_bfloat16_kernels = {plan, prepare, run};

}  // namespace fastconv::FASTCONV_ISA
