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
// (out_channels, taps) for kNCHW; those that depthwise_conv2d_widens_weight names are float32.
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
  bool flip;   // both kernel axes reversed, for the gradient of the input
  bool widen;  // see depthwise_conv2d_widens_weight
  void* packed;
};

// scratch: depthwise_conv2d_scratch bytes, aligned to 64, of each thread's own.
struct DepthwiseConv2dKernels {
  void (*pack_weight)(const DepthwiseConv2dPackParams&);
  void (*forward)(const DepthwiseConv2dParams&, void* scratch, int64_t begin, int64_t end);
  void (*backward_input)(const DepthwiseConv2dBackwardInputParams&, void* scratch, int64_t begin,
                         int64_t end);
  void (*backward_weight)(const DepthwiseConv2dBackwardWeightParams&, void* scratch, int64_t begin,
                          int64_t end);
  void (*sum_partials)(const DepthwiseConv2dBackwardWeightParams&, int64_t begin, int64_t end);
};

}  // namespace fastconv
