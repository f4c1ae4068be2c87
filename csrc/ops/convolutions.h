// The convolutions a fused block is made of, as it calls them where no fused kernel serves.
#pragma once

#include "out.h"

namespace fastconv::ops {

Tensor depthwise_conv2d(Out out, const Tensor& input, const Tensor& weight,
                        const std::optional<Tensor>& bias, const std::vector<int64_t>& stride,
                        const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation,
                        const std::optional<Text>& activation);

Tensor pointwise_conv2d(Out out, const Tensor& input, const Tensor& weight,
                        const std::optional<Tensor>& bias, const std::optional<Tensor>& residual,
                        const std::vector<int64_t>& stride, const std::optional<Text>& activation);

}  // namespace fastconv::ops
