// output = activation(conv2d(input, weight, groups = channels) + bias): each channel has filters of
// its own, and output channel k reads input channel k / multiplier. Taps that fall into the padding
// are skipped, not multiplied by zero, so an infinite weight makes no NaN at the border.
// Floor of the forward pass: one read and one write an element, kernel_h * kernel_w FMAs an output.
#pragma once

#include "common/activation.h"
#include "common/types.h"
#include "variants.h"

namespace fastconv {

struct DepthwiseConv2dShape {
  int64_t batch, channels, height, width;
  int64_t multiplier;  // output channels an input channel
  int64_t out_height, out_width;
  int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  int64_t pad_top, pad_left;  // negative: the first rows or columns are not read
  Layout layout;
  DType dtype;
  bool has_vectors;  // whether the instruction set in use has them

  FASTCONV_INLINE int64_t out_channels() const { return channels * multiplier; }
  FASTCONV_INLINE int64_t taps() const { return kernel_h * kernel_w; }
};

// All activations are dense in shape.layout. Packed weights are (taps, out_channels) for kNHWC and
// (out_channels, taps) for kNCHW.
struct DepthwiseConv2dParams {
  DepthwiseConv2dShape shape;
  const void* input;   // (batch, channels, height, width)
  const void* weight;  // packed
  const void* bias;    // (out_channels) or null
  void* output;        // (batch, out_channels, out_height, out_width)
  Activation activation;
};

struct DepthwiseConv2dBackwardInputParams {
  DepthwiseConv2dShape shape;
  const void* grad_output;  // (batch, out_channels, out_height, out_width)
  const void* weight;       // packed
  void* grad_input;         // (batch, channels, height, width)
};

// Two steps: partial sums of chunks of the images, which depend on the shape alone, then their sum
// in the order of the chunks: the same bits on any number of threads.
struct DepthwiseConv2dBackwardWeightParams {
  DepthwiseConv2dShape shape;
  const void* grad_output;  // (batch, out_channels, out_height, out_width)
  const void* input;        // (batch, channels, height, width)
  // (chunks, taps + 1, out_channels) in the accumulation type; row `taps` holds the bias sums
  void* partial;
  void* grad_weight;  // (out_channels, 1, kernel_h, kernel_w), strides in elements:
  int64_t grad_stride_channel, grad_stride_h, grad_stride_w;
  void* grad_bias;  // (out_channels)
};

struct DepthwiseConv2dPackParams {
  DepthwiseConv2dShape shape;
  const void* weight;  // (out_channels, 1, kernel_h, kernel_w), strides in elements:
  int64_t stride_channel, stride_h, stride_w;
  bool flip;  // both kernel axes reversed, for the gradient of the input
  void* packed;
};

constexpr int64_t kDepthwiseUnitRows = 2;  // NHWC: output rows a unit
constexpr int64_t kDepthwiseUnitChannels =
    256;                                       // NHWC: channels a unit, so that weights stay in L1
constexpr int64_t kDepthwisePlaneRows = 28;    // NCHW: output rows a unit
constexpr int64_t kDepthwiseStripRows = 4;     // weight gradient: output rows walked at a time
constexpr int64_t kDepthwiseWeightUnits = 32;  // weight gradient: units wanted

FASTCONV_INLINE int64_t depthwise_units(Layout layout, int64_t batch, int64_t channels,
                                        int64_t height) {
  return layout == Layout::kNHWC
             ? batch * div_up(height, kDepthwiseUnitRows) * div_up(channels, kDepthwiseUnitChannels)
             : batch * channels * div_up(height, kDepthwisePlaneRows);
}

// Work comes in units that may run in any order and on any thread.
FASTCONV_INLINE int64_t depthwise_conv2d_units(const DepthwiseConv2dShape& s) {
  return depthwise_units(s.layout, s.batch, s.out_channels(), s.out_height);
}

FASTCONV_INLINE int64_t depthwise_conv2d_backward_input_units(const DepthwiseConv2dShape& s) {
  return depthwise_units(s.layout, s.batch, s.channels, s.height);
}

FASTCONV_INLINE int64_t depthwise_conv2d_strips(const DepthwiseConv2dShape& s) {
  return s.batch * div_up(s.out_height, kDepthwiseStripRows);
}

FASTCONV_INLINE int64_t depthwise_conv2d_channel_blocks(const DepthwiseConv2dShape& s) {
  return div_up(s.out_channels(), kDepthwiseUnitChannels);
}

FASTCONV_INLINE int64_t depthwise_conv2d_chunks(const DepthwiseConv2dShape& s) {
  if (s.layout == Layout::kNCHW) return 1;
  const int64_t wanted = div_up(kDepthwiseWeightUnits, depthwise_conv2d_channel_blocks(s));
  return min_of(depthwise_conv2d_strips(s), wanted);
}

FASTCONV_INLINE int64_t depthwise_conv2d_backward_weight_units(const DepthwiseConv2dShape& s) {
  return s.layout == Layout::kNHWC ? depthwise_conv2d_chunks(s) * depthwise_conv2d_channel_blocks(s)
                                   : s.out_channels();
}

// Register tiles are built for these kernels, on instruction sets that have vectors.
FASTCONV_INLINE bool depthwise_conv2d_has_tiles(const DepthwiseConv2dShape& s) {
  return s.has_vectors && s.dtype != DType::kFloat64 && s.kernel_h == s.kernel_w &&
         (s.kernel_h == 3 || s.kernel_h == 5 || s.kernel_h == 7);
}

FASTCONV_INLINE bool depthwise_conv2d_fits_tiles(const DepthwiseConv2dShape& s) {
  return depthwise_conv2d_has_tiles(s) && s.stride_h == s.stride_w && s.stride_h <= 2 &&
         s.dilation_h == 1 && s.dilation_w == 1;
}

FASTCONV_INLINE Variant depthwise_conv2d_variant(const DepthwiseConv2dShape& s) {
  const bool nhwc = s.layout == Layout::kNHWC;
  if (depthwise_conv2d_fits_tiles(s) && (s.multiplier == 1 || !nhwc)) {
#define FASTCONV_TILE(k, s_)                                 \
  if (s.kernel_h == k && s.stride_h == s_)                   \
    return nhwc ? Variant::depthwise_conv2d_nhwc_k##k##s##s_ \
                : Variant::depthwise_conv2d_nchw_k##k##s##s_;
    FASTCONV_TILE(3, 1)
    FASTCONV_TILE(3, 2)
    FASTCONV_TILE(5, 1)
    FASTCONV_TILE(5, 2)
    FASTCONV_TILE(7, 1)
    FASTCONV_TILE(7, 2)
#undef FASTCONV_TILE
  }
  return nhwc ? Variant::depthwise_conv2d_nhwc_any : Variant::depthwise_conv2d_nchw_any;
}

// The gradient of the input at stride 1 is the forward pass over grad_output with flipped weights.
FASTCONV_INLINE bool depthwise_conv2d_backward_is_forward(const DepthwiseConv2dShape& s) {
  return s.stride_h == 1 && s.stride_w == 1 && s.multiplier == 1;
}

FASTCONV_INLINE DepthwiseConv2dShape depthwise_conv2d_transposed(DepthwiseConv2dShape s) {
  DepthwiseConv2dShape t = s;
  t.height = s.out_height, t.width = s.out_width;
  t.out_height = s.height, t.out_width = s.width;
  t.pad_top = s.dilation_h * (s.kernel_h - 1) - s.pad_top;
  t.pad_left = s.dilation_w * (s.kernel_w - 1) - s.pad_left;
  return t;
}

FASTCONV_INLINE Variant depthwise_conv2d_backward_input_variant(const DepthwiseConv2dShape& s) {
  if (depthwise_conv2d_backward_is_forward(s)) {
    return depthwise_conv2d_variant(depthwise_conv2d_transposed(s));
  }
  return s.layout == Layout::kNHWC ? Variant::depthwise_conv2d_backward_input_nhwc
                                   : Variant::depthwise_conv2d_backward_input_nchw;
}

FASTCONV_INLINE Variant depthwise_conv2d_backward_weight_variant(const DepthwiseConv2dShape& s) {
  const bool tile = depthwise_conv2d_has_tiles(s);
  if (s.layout == Layout::kNHWC) {
    return tile && s.multiplier == 1 ? Variant::depthwise_conv2d_backward_weight_nhwc_k357
                                     : Variant::depthwise_conv2d_backward_weight_nhwc_any;
  }
  return tile && s.stride_w <= 2 ? Variant::depthwise_conv2d_backward_weight_nchw_k357
                                 : Variant::depthwise_conv2d_backward_weight_nchw_any;
}

struct DepthwiseConv2dKernels {
  void (*pack_weight)(const DepthwiseConv2dPackParams&);
  void (*forward)(const DepthwiseConv2dParams&, int64_t begin, int64_t end);
  void (*backward_input)(const DepthwiseConv2dBackwardInputParams&, int64_t begin, int64_t end);
  void (*backward_weight)(const DepthwiseConv2dBackwardWeightParams&, int64_t begin, int64_t end);
  // A unit is a tap; unit `taps` is the bias.
  void (*sum_partials)(const DepthwiseConv2dBackwardWeightParams&, int64_t begin, int64_t end);
};

}  // namespace fastconv
