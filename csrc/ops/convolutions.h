// The convolutions a fused block is made of, as it calls them where no fused kernel serves.
#pragma once

#include "out.h"

namespace fastconv::ops {

// Whether a 1x1 weight of a bfloat16 input is packed: int32 (out, in / 2 rounded up, 1, 1), each
// value the bfloat16 weights of two input channels, output channels together in memory.
bool is_pairs(const Tensor& weight, const Tensor& input);

Tensor depthwise_conv2d(Out out, const Tensor& input, const Tensor& weight,
                        const std::optional<Tensor>& bias, const std::vector<int64_t>& stride,
                        const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation,
                        const std::optional<Text>& activation);

Tensor pointwise_conv2d(Out out, const Tensor& input, const Tensor& weight,
                        const std::optional<Tensor>& bias, const std::optional<Tensor>& residual,
                        const std::vector<int64_t>& stride, const std::optional<Text>& activation);

}  // namespace fastconv::ops
