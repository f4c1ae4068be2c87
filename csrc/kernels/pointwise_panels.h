// A 1x1 weight in the order that pack_pointwise_panels of fastconv.ops gives: panels of output
// channels that lie together, each (in, columns) in memory.
#pragma once

#include "pointwise_conv2d.h"

namespace fastconv {

// Two vectors of AVX-512 in float32; panels of all other kernels divide it. As in their last one, a
// lone vector at the end joins the panel before it.
constexpr int64_t kPackedColumns = 32;

// Both strides of a weight that lies so.
constexpr int64_t kInPanels = -1;

FASTCONV_INLINE bool weight_is_panels(const PointwiseConv2dParams& p) {
  return p.weight_in_stride == kInPanels;
}

struct PackedPanel {
  int64_t first, columns;
};

// The panel that holds an output channel.
FASTCONV_INLINE PackedPanel packed_panel_of(int64_t channel, int64_t out_channels) {
  const int64_t halves = (out_channels + kPackedColumns / 2 - 1) / (kPackedColumns / 2);
  const int64_t last = halves < 4 ? 0 : (halves / 2 - 1) * kPackedColumns;
  if (channel >= last) return {last, out_channels - last};
  return {channel / kPackedColumns * kPackedColumns, kPackedColumns};
}

// Elements from the beginning to the weight of an output and an input channel; from there on that
// of the next input channel is panel.columns further.
FASTCONV_INLINE int64_t packed_offset(const PackedPanel& panel, int64_t channel, int64_t in,
                                      int64_t in_channels) {
  return panel.first * in_channels + in * panel.columns + channel - panel.first;
}

struct WeightColumns {
  const float* first;
  int64_t row;  // elements to the next
};

// Output channels from `column` on, at input channel `in`, of a 1x1 weight whose rows are `row`
// elements apart or 0.
FASTCONV_INLINE WeightColumns columns_at(const float* weight, int64_t row, int64_t in,
                                         int64_t in_channels, int64_t column,
                                         int64_t out_channels) {
  if (row > 0) return {weight + in * row + column, row};
  const PackedPanel panel = packed_panel_of(column, out_channels);
  return {weight + packed_offset(panel, column, in, in_channels), panel.columns};
}

}  // namespace fastconv
