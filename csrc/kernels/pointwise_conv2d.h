// output = activation(conv1x1(input, weight) + bias + residual): a matrix product over channels.
// channels_last: (pixels, in) by (in, out). contiguous: (out, in) by (in, pixels), image by image.
// The gradient of the input is the same kernel with the channels' roles exchanged.
#pragma once

#include "common/activation.h"
#include "common/types.h"
#include "variants.h"

namespace fastconv {

struct PointwiseConv2dShape {
  int64_t batch, in_channels, out_channels;
  int64_t in_height, in_width;
  int64_t height, width;  // of the output
  int64_t stride_h, stride_w;
  Layout layout;
  DType dtype;
};

FASTCONV_INLINE bool is_subsampled(const PointwiseConv2dShape& p) {
  return p.stride_h != 1 || p.stride_w != 1;
}

struct PointwiseConv2dParams : PointwiseConv2dShape {
  const void* input;     // (batch, in_channels, in_height, in_width), dense in layout
  const void* weight;    // (out_channels, in_channels), with the strides below
  const void* bias;      // (out_channels) or null
  const void* residual;  // as output, or null
  void* output;          // (batch, out_channels, height, width), dense in layout

  int64_t weight_out_stride, weight_in_stride;  // in elements or pairs; or kInPanels
  // bfloat16 in the order that pack_pointwise_pairs of fastconv.ops gives, (in / 2, out, 2) in
  // memory: the weights of two input channels, which one step of a tile multiplies, lie together.
  bool weight_is_pairs;
  bool bias_is_float32;  // beside a bfloat16 input
  Activation activation;
};

struct PointwiseConv2dWeightGradientParams : PointwiseConv2dShape {
  const void* grad_output;  // (batch, out_channels, height, width), dense in layout
  const void* input;        // (batch, in_channels, in_height, in_width), dense in layout
  void* grad_weight;        // (out_channels, in_channels) with the strides below, or null
  void* grad_bias;          // (out_channels) or null

  int64_t weight_out_stride, weight_in_stride;  // in elements
  bool adds;                                    // run: to what the partials hold
  int64_t splits;  // reduce: the partials there are; 0: those of run's plan
};

// Zeroes grad_input but for the pixels a stride above one reads, which it takes from compact.
struct PointwiseConv2dSpreadParams : PointwiseConv2dShape {
  const void* compact;  // (batch, in_channels, height, width), dense in layout
  void* grad_input;     // (batch, in_channels, in_height, in_width), dense in layout
};

FASTCONV_INLINE int64_t element_size(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

// A row stride of whole pages puts every row in the same sets of the caches: 1024 channels ran at
// 187 GFLOP/s unpacked and 243 packed, 960 channels at 246 either way (one core, Zen 5).
constexpr int64_t kPage = 4096;

FASTCONV_INLINE bool rows_share_cache_sets(int64_t row_elements, DType dtype) {
  return row_elements * element_size(dtype) % kPage == 0;
}

FASTCONV_INLINE int64_t pixels_of(const PointwiseConv2dShape& p) {
  return p.batch * p.height * p.width;
}

// Weights in (out, in) order, as torch.nn.Linear has them, are not packed for so few pixels.
constexpr int64_t kDotPixels = 16;

FASTCONV_INLINE bool is_dots(const PointwiseConv2dParams& p) {
  return p.layout == Layout::kNHWC && pixels_of(p) <= kDotPixels && !is_subsampled(p) &&
         p.weight_in_stride == 1 && p.weight_out_stride != 1 && !p.weight_is_pairs;
}

FASTCONV_INLINE Variant pointwise_conv2d_variant(const PointwiseConv2dParams& p) {
  if (p.layout == Layout::kNCHW) return Variant::pointwise_conv2d_nchw;
  if (is_dots(p)) return Variant::pointwise_conv2d_nhwc_dots;
  if (p.dtype == DType::kBFloat16) {
    return p.weight_is_pairs ? Variant::pointwise_conv2d_nhwc_pairs
                             : Variant::pointwise_conv2d_nhwc_pairs_packing;
  }
  const bool narrow = p.dtype == DType::kFloat16;
  const bool as_it_is =
      !narrow && p.weight_out_stride == 1 && !rows_share_cache_sets(p.weight_in_stride, p.dtype);
  return as_it_is ? Variant::pointwise_conv2d_nhwc : Variant::pointwise_conv2d_nhwc_packing;
}

// Work in two stages: first all units of prepare, which fill the shared buffer `prepared` (weights
// and bias as the tiles read them), then all units of run. Units of a stage may run in any order
// and on any thread; each thread brings its own scratch. Buffers are aligned to 64 bytes.
struct PointwiseConv2dPlan {
  int64_t prepare_units, prepared_bytes;  // zero where the tensors serve as they are
  int64_t units, scratch_bytes;
};

// The weight gradient turns the stages round: run leaves sums over parts of the pixels in
// `partials`, then reduce adds them in a fixed order.
struct PointwiseConv2dWeightGradientPlan {
  int64_t units, scratch_bytes;
  int64_t reduce_units, partials_bytes;
};

struct PointwiseConv2dKernels {
  PointwiseConv2dPlan (*plan)(const PointwiseConv2dParams&);
  void (*prepare)(const PointwiseConv2dParams&, void* prepared, int64_t begin, int64_t end);
  void (*run)(const PointwiseConv2dParams&, const void* prepared, void* scratch, int64_t begin,
              int64_t end);
};

struct PointwiseConv2dBackwardKernels {
  PointwiseConv2dWeightGradientPlan (*plan)(const PointwiseConv2dWeightGradientParams&);
  void (*run)(const PointwiseConv2dWeightGradientParams&, void* partials, void* scratch,
              int64_t begin, int64_t end);
  void (*reduce)(const PointwiseConv2dWeightGradientParams&, const void* partials, int64_t begin,
                 int64_t end);
  // One unit an image row of grad_input.
  void (*spread)(const PointwiseConv2dSpreadParams&, int64_t begin, int64_t end);
};

}  // namespace fastconv
