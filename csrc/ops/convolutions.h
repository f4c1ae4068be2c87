// The parts a fused block is made of, as it calls them where no fused kernel serves.
#pragma once

#include "../kernels/inverted_residual.h"
#include "../kernels/pointwise_conv2d.h"
#include "out.h"

namespace fastconv::ops {

// Whether a 1x1 weight of a bfloat16 input is packed: int32 (out, in / 2 rounded up, 1, 1), each
// value the bfloat16 weights of two input channels, output channels together in memory.
bool is_pairs(const Tensor& weight, const Tensor& input);

// Whether it lies as pointwise_panels.h says: (1, out, in), which no other weight is.
bool is_panels(const Tensor& weight);

// By dtype and layout.
const PointwiseConv2dKernels& pointwise_conv2d_kernels_of(const PointwiseConv2dParams& p);
// For plan and run; where they are those of matrix tiles, each unit is a split, and the reduce of
// the others is to be told how many there are.
const PointwiseConv2dBackwardKernels& pointwise_conv2d_backward_kernels_of(
    const PointwiseConv2dWeightGradientParams& p);

Tensor depthwise_conv2d(Out out, const Tensor& input, const Tensor& weight,
                        const std::optional<Tensor>& bias, const std::vector<int64_t>& stride,
                        const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation,
                        const std::optional<Text>& activation);

Tensor pointwise_conv2d(Queue& queue, Out out, const Tensor& input, const Tensor& weight,
                        const std::optional<Tensor>& bias, const std::optional<Tensor>& residual,
                        const std::vector<int64_t>& stride, const std::optional<Text>& activation);

// The two 1x1 convolutions of a squeeze-and-excitation and what follows each.
struct SqueezeExcitation {
  const Tensor& reduce_weight;
  const std::optional<Tensor>& reduce_bias;
  const Tensor& expand_weight;
  const std::optional<Tensor>& expand_bias;
  const std::optional<Text>& activation;
  const Text& gate;
};

Gate parse_gate(const Text& name);

Tensor squeeze_excitation(const Tensor& input, const SqueezeExcitation& s);

}  // namespace fastconv::ops
