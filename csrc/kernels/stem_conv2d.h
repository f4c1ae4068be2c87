// output = activation(conv2d(input, weight) + bias) of an image with few channels: the first layer.
// The image is read as it comes, NCHW or NHWC; the output is channels_last, as the layers that
// follow want it.
#pragma once

#include "common/activation.h"
#include "common/types.h"
#include "variants.h"

namespace fastconv {

struct StemConv2dParams {
  const void* input;   // (batch, channels, height, width), dense in layout
  const void* weight;  // (out_channels, channels, kernel_h, kernel_w), with the strides below
  const void* bias;    // (out_channels) or null
  void* output;        // (batch, out_channels, out_height, out_width), channels_last

  int64_t batch, channels, height, width;
  int64_t out_channels, out_height, out_width;
  int64_t kernel_h, kernel_w, stride_h, stride_w;
  int64_t pad_top, pad_left;
  int64_t weight_out_stride, weight_in_stride, weight_row_stride, weight_column_stride;

  bool bias_is_float32;  // beside a bfloat16 input
  Layout layout;         // of the input
  DType dtype;
  Activation activation;
};

// Whether the weight lies in the order (kernel_h, kernel_w, in, out) without gaps.
FASTCONV_INLINE bool stem_conv2d_weight_is_packed(const StemConv2dParams& p) {
  const auto is = [](int64_t size, int64_t stride, int64_t wanted) {
    return size == 1 || stride == wanted;
  };
  const int64_t pixel = p.channels * p.out_channels;
  return is(p.out_channels, p.weight_out_stride, 1) &&
         is(p.channels, p.weight_in_stride, p.out_channels) &&
         is(p.kernel_w, p.weight_column_stride, pixel) &&
         is(p.kernel_h, p.weight_row_stride, p.kernel_w * pixel);
}

FASTCONV_INLINE Variant stem_conv2d_variant(const StemConv2dParams& p) {
  const bool narrow = p.dtype == DType::kBFloat16 || p.dtype == DType::kFloat16;
  if (narrow || !stem_conv2d_weight_is_packed(p)) return Variant::stem_conv2d_packing;
  return p.layout == Layout::kNCHW ? Variant::stem_conv2d_nchw : Variant::stem_conv2d_nhwc;
}

// prepare fills the shared buffer `prepared`; then the units, rows of the output, may run in any
// order and on any thread, each thread with scratch of its own. Buffers are aligned to 64 bytes.
struct StemConv2dPlan {
  int64_t prepared_bytes;  // zero where weight and bias serve as they are
  int64_t units, scratch_bytes;
};

struct StemConv2dKernels {
  StemConv2dPlan (*plan)(const StemConv2dParams&);
  void (*prepare)(const StemConv2dParams&, void* prepared);
  void (*run)(const StemConv2dParams&, const void* prepared, void* scratch, int64_t begin,
              int64_t end);
};

}  // namespace fastconv
