// output = activation(conv2d(input, weight) + bias + residual) of all channels at once, NHWC: a
// product of the windows, which are never laid out in full, with panels of the weights.
#pragma once

#include "common/activation.h"
#include "common/types.h"
#include "variants.h"

namespace fastconv {

// Output channels of a panel of packed weights, where there are so many; the last panel is filled
// up with zeros.
constexpr int64_t kDensePanel = 32;

struct DenseConv2dParams {
  const void* input;   // (batch, channels, height, width), channels_last
  const void* weight;  // packed: (panels, kernel_h, kernel_w, channels, panel), dense; at
                       // Winograd's points: (6, 6, panels, channels, panel), dense;
                       // else (out_channels, channels, kernel_h, kernel_w), with the strides below
  const void* bias;    // (out_channels) or null
  const void* residual;  // as output, or null
  void* output;          // (batch, out_channels, out_height, out_width), channels_last

  int64_t batch, channels, height, width;
  int64_t out_channels, out_height, out_width;
  int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  int64_t pad_top, pad_left;
  int64_t weight_out_stride, weight_in_stride, weight_row_stride, weight_column_stride;

  int64_t panel;  // output channels of one, kDensePanel at most
  bool weight_is_packed;
  bool is_winograd;          // then it is packed, float32, 3x3, of stride and dilation 1
  bool weight_is_at_points;  // brought to Winograd's beforehand
  DType dtype;
  Activation activation;
};

FASTCONV_INLINE int64_t dense_panels(const DenseConv2dParams& p) {
  return div_up(p.out_channels, p.panel);
}

// Whether tap after tap is multiplied with all pixels of an image at once, rather than the whole
// window with the pixels of a row. Narrow rows would leave register tiles half empty; and where
// neighbours are whole pages apart they would share cache sets, which a copy for a tap avoids.
FASTCONV_INLINE bool dense_goes_by_taps(const DenseConv2dParams& p) {
  constexpr int64_t kNarrow = 8, kPage = 4096;
  const int64_t pixel = p.channels * (p.dtype == DType::kFloat64 ? 8 : 4);
  return p.out_width < kNarrow || p.dilation_w > 1 || p.stride_w * pixel % kPage == 0;
}

FASTCONV_INLINE bool dense_must_pack(const DenseConv2dParams& p) {
  return !p.weight_is_packed || p.dtype == DType::kBFloat16 || p.dtype == DType::kFloat16;
}

FASTCONV_INLINE Variant dense_conv2d_variant(const DenseConv2dParams& p) {
  if (p.is_winograd) return Variant::dense_conv2d_winograd;
  if (dense_must_pack(p)) return Variant::dense_conv2d_packing;
  return dense_goes_by_taps(p) ? Variant::dense_conv2d_taps : Variant::dense_conv2d_rows;
}

// Work in two stages, each of units that may run in any order and on any thread: prepare fills the
// shared buffer `prepared`, a panel a unit; then run, each thread with scratch of its own. Buffers
// are aligned to 64 bytes.
struct DenseConv2dPlan {
  int64_t prepare_units, prepared_bytes;  // zero where the weight serves as it is
  int64_t units, scratch_bytes;
};

struct DenseConv2dKernels {
  DenseConv2dPlan (*plan)(const DenseConv2dParams&);
  void (*prepare)(const DenseConv2dParams&, void* prepared, int64_t begin, int64_t end);
  void (*run)(const DenseConv2dParams&, const void* prepared, void* scratch, int64_t begin,
              int64_t end);
};

}  // namespace fastconv
