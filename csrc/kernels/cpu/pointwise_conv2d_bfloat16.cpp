// Pointwise convolution of channels_last bfloat16 on the CPU: tiles of a matrix product straight
// from and to the tensors; pixels are copied together only where a stride or an odd number of
// channels asks for it.
#include <cstring>

#include "../pointwise_conv2d.h"
#include "gemm_bfloat16.h"
#include "registry.h"
#include "stage_pairs.h"

namespace fastconv::FASTCONV_ISA {
namespace {

using Params = PointwiseConv2dParams;

// As in pointwise_conv2d.cpp.
constexpr int64_t kWeightBytesInCache = 256 << 10, kGroupBytes = 256 << 10;
constexpr int64_t kStreamedBytes = 16 << 20;

FASTCONV_INLINE int64_t pairs_of(const Params& p) {
  return div_up<int64_t>(p.in_channels, 2);
}

FASTCONV_INLINE bool gathers(const Params& p) {
  return is_subsampled(p) || p.in_channels % 2 != 0;
}

// Where the units lie: groups of row tiles, in them panels, in them tiles.
struct Grid {
  int64_t rows, tiles, panels, group;
};

Grid grid_of(const Params& p) {
  const int64_t rows = p.batch * p.height * p.width, row_bytes = p.in_channels * 2;
  const int64_t fit = max_of<int64_t>(kGroupBytes / (row_bytes * kPairRows), 1);
  const int64_t tiles = pair_tile_count(rows);
  const bool weights_stay = row_bytes * p.out_channels <= kWeightBytesInCache;
  const bool one_at_a_time = gathers(p) || weights_stay;
  return {rows, tiles, panel_count<float>(p.out_channels), one_at_a_time ? 1 : min_of(fit, tiles)};
}

PointwiseConv2dPlan plan(const Params& p) {
  const Grid grid = grid_of(p);
  PointwiseConv2dPlan plan{};
  if (!p.weight_is_pairs) {
    plan.prepare_units = grid.panels;
    plan.prepared_bytes = pairs_of(p) * p.out_channels * sizeof(uint32_t);
  }
  plan.units = grid.tiles * grid.panels;
  plan.scratch_bytes = gathers(p) ? kPairRows * pairs_of(p) * sizeof(uint32_t) : 0;
  return plan;
}

void prepare(const Params& p, void* prepared, int64_t begin, int64_t end) {
  const bfloat16* weight = static_cast<const bfloat16*>(p.weight);
  for (int64_t unit = begin; unit < end; ++unit) {
    const Range panel = panel_at<float>(unit, p.out_channels);
    stage_pairs(weight + panel.first * p.weight_out_stride, p.weight_in_stride, p.weight_out_stride,
                static_cast<uint32_t*>(prepared) + panel.first, p.out_channels, p.in_channels,
                panel.count);
  }
}

// Copies the pixels of a tile together, an odd number of channels with a zero behind it.
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

FASTCONV_INLINE bool streams(const Params& p) {
  constexpr uint64_t kVectorBytes = kLanes<float> * sizeof(bfloat16);
  return p.batch * p.height * p.width * p.out_channels * 2 >= kStreamedBytes &&
         p.out_channels % kLanes<float> == 0 &&
         reinterpret_cast<uintptr_t>(p.output) % kVectorBytes == 0;
}

void run(const Params& p, const void* prepared, void* scratch, int64_t begin, int64_t end) {
  const Grid grid = grid_of(p);
  const bfloat16* weight = static_cast<const bfloat16*>(p.weight_is_pairs ? p.weight : prepared);
  const bfloat16* bias = static_cast<const bfloat16*>(p.bias);
  const bfloat16* residual = static_cast<const bfloat16*>(p.residual);
  bfloat16* pixels = static_cast<bfloat16*>(scratch);
  float wide_bias[kTileColumns<float>];
  PairTile<bfloat16> t{};
  t.a_pair = 2, t.pairs = pairs_of(p);
  t.b_row = 2 * (p.weight_is_pairs ? p.weight_in_stride : p.out_channels);
  t.c_row = t.residual_row = p.out_channels;
  t.bias = bias ? wide_bias : nullptr;
  t.streams = streams(p);
  set_clamp(t, p.activation);
  int64_t gathered = -1;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t group = unit / (grid.group * grid.panels) * grid.group;
    const int64_t tiles = min_of(grid.group, grid.tiles - group);
    const int64_t within = unit - group * grid.panels;
    const int64_t tile = group + within % tiles;
    const Range rows = part_of(grid.rows, grid.tiles, tile);
    const Range panel = panel_at<float>(within / tiles, p.out_channels);
    if (gathers(p)) {
      if (tile != gathered) gather_pixels(p, rows, pixels);
      gathered = tile;
      t.a = pixels, t.a_row = 2 * pairs_of(p);
    } else {
      t.a = static_cast<const bfloat16*>(p.input) + rows.first * p.in_channels;
      t.a_row = p.in_channels;
    }
    if (bias != nullptr) stage_row(bias + panel.first, wide_bias, panel.count);
    const int64_t offset = rows.first * p.out_channels + panel.first;
    t.b = weight + 2 * panel.first;
    t.residual = residual ? residual + offset : nullptr;
    t.c = static_cast<bfloat16*>(p.output) + offset;
    t.rows = rows.count, t.columns = panel.count;
    pair_tile(t, p.activation);
  }
  stream_fence();
}

}  // namespace

const PointwiseConv2dKernels pointwise_conv2d_bfloat16_kernels = {plan, prepare, run};

}  // namespace fastconv::FASTCONV_ISA
