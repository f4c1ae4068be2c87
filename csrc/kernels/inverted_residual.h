// The blocks of mobile networks in one pass, for inference; what lies between their convolutions
// stays in the caches.
//   inverted residual: output = project(act(depthwise(act(expand(input))))) (+ input)
//   separable:         output = act'(pointwise(act(depthwise(input))) (+ residual)), no expansion
// expand, project and pointwise are 1x1 convolutions with a bias. The depthwise convolution pads
// with zeros, which is not what expand makes of zeros: taps in the padding are skipped.
// With squeeze-and-excitation what the depthwise part gives, h, becomes h * gates before the
// projection, gates = gate(expand(act(reduce(mean of h over the pixels)))), two small matrices.
#pragma once

#include "common/activation.h"
#include "common/types.h"
#include "variants.h"

namespace fastconv {

// What makes a gate of what the squeeze-and-excitation gives for a channel.
enum class Gate : int8_t { kSigmoid, kHardsigmoid };

struct InvertedResidualShape {
  int64_t batch, in_channels, hidden, out_channels;  // without expansion hidden is in_channels
  int64_t squeezed;  // channels within the squeeze-and-excitation, 0 without
  int64_t height, width, out_height, out_width;
  int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  int64_t pad_top, pad_left;
  bool expands;
  Layout layout;
  DType dtype;
  bool has_vectors;  // whether the instruction set in use has them
  // With squeeze-and-excitation: each image by one thread, rather than each stage by all.
  bool image_a_unit;

  FASTCONV_INLINE int64_t pixels() const { return out_height * out_width; }
};

// Activations are dense and channels_last. The 1x1 weights are (in, out) in memory, rows a stride
// apart, the depthwise weight (taps, hidden): the order that pack_pointwise_weight and
// pack_depthwise_weight of fastconv.ops give.
struct InvertedResidualParams : InvertedResidualShape {
  const float* input;          // (batch, in_channels, height, width)
  const float* expand_weight;  // (in_channels, hidden), null without expansion
  const float* expand_bias;    // (hidden) or null
  const float* depthwise_weight;
  const float* depthwise_bias;  // (hidden) or null
  const float* project_weight;  // (hidden, out_channels)
  const float* project_bias;    // (out_channels) or null
  const float* residual;        // as output, or null
  float* output;                // (batch, out_channels, out_height, out_width)
  // Of the squeeze-and-excitation: (hidden, squeezed) and (squeezed, hidden), dense; their biases
  // or null.
  const float *squeeze_reduce_weight, *squeeze_reduce_bias;
  const float *squeeze_expand_weight, *squeeze_expand_bias;

  int64_t expand_row, project_row;  // elements from row to row of the weight; 0: panels
  Activation activation;            // after expand and depthwise
  Activation project_activation;
  Activation squeeze_activation;
  Gate squeeze_gate;
};

// A weight in another order is copied first: packed[i][o] = weight[o * out_stride + i * in_stride].
struct InvertedResidualPackParams {
  const float* weight;
  int64_t out_channels, in_channels, out_stride, in_stride;
  float* packed;
};

FASTCONV_INLINE bool inverted_residual_is_fused(const InvertedResidualShape& s) {
  const bool pairs =
      s.dtype == DType::kBFloat16 && s.squeezed == 0 && (!s.expands || s.in_channels % 2 == 0);
  return s.has_vectors && (s.dtype == DType::kFloat32 || pairs) && s.layout == Layout::kNHWC &&
         s.kernel_h == s.kernel_w && s.stride_h == s.stride_w && s.dilation_h == 1 &&
         s.dilation_w == 1 && (s.kernel_h == 3 || s.kernel_h == 5 || s.kernel_h == 7) &&
         s.stride_h <= 2;
}

// Rows: strips of output rows, all hidden channels of a strip at a time; a thread that starts
// amid an image computes the kernel's overlap once more. Channels: two parts of the hidden
// channels, each of which is hidden and projected over the whole image, and the sum of both
// projections: no overlap, each weight is read by one thread, and only the projections pass from
// core to core: a line that the other core has read is written at 8 GB/s. The blocks of
// EfficientNet-B0, one image on 2 cores of a Zen 5: 2161 us, in turn with 2783 where all of what is
// hidden passed.
constexpr int64_t kInvertedResidualSmallMap = 7 * 7;

FASTCONV_INLINE bool inverted_residual_by_channels(const InvertedResidualShape& s) {
  return s.batch == 1 && s.pixels() <= kInvertedResidualSmallMap;
}

FASTCONV_INLINE Variant inverted_residual_variant(const InvertedResidualShape& s) {
  if (!inverted_residual_is_fused(s)) {
    return s.expands ? Variant::inverted_residual_parts : Variant::separable_conv2d_parts;
  }
  if (s.squeezed > 0) {
    return s.expands ? Variant::inverted_residual_squeeze : Variant::separable_conv2d_squeeze;
  }
  if (inverted_residual_by_channels(s)) {
    return s.expands ? Variant::inverted_residual_channels : Variant::separable_conv2d_channels;
  }
  return s.expands ? Variant::inverted_residual_rows : Variant::separable_conv2d_rows;
}

// Work in stages, one after the other: hide leaves the hidden channels and their sums in the
// buffer `shared` by all threads, squeeze and gate make the gates and apply them, part projects
// some of the hidden channels, project does the rest, which is all of it where the stages before
// have no units. Units of a stage may run in any order and on any thread, which brings its own
// scratch. Buffers are aligned to 64 bytes.
enum InvertedResidualStage { kHide, kSqueeze, kGate, kPart, kProject, kInvertedResidualStages };

struct InvertedResidualPlan {
  int64_t units[kInvertedResidualStages];
  int64_t shared_bytes, scratch_bytes;
  // Where project is the only stage: rows of the output that a unit makes, one image after another.
  int64_t unit_rows;
};

struct InvertedResidualKernels {
  void (*pack)(const InvertedResidualPackParams&);
  InvertedResidualPlan (*plan)(const InvertedResidualShape&);
  void (*run)(const InvertedResidualParams&, InvertedResidualStage stage, float* shared,
              float* scratch, int64_t begin, int64_t end);
};

}  // namespace fastconv
