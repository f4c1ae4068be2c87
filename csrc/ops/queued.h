// The ops whose work can be queued, as sequence.cpp calls them.
#pragma once

#include "convolutions.h"

namespace fastconv::ops {

Tensor inverted_residual(Queue& queue, Out out, const Tensor& input, const Tensor& expand_weight,
                         const std::optional<Tensor>& expand_bias, const Tensor& depthwise_weight,
                         const std::optional<Tensor>& depthwise_bias, const Tensor& project_weight,
                         const std::optional<Tensor>& project_bias,
                         const std::optional<Tensor>& squeeze_reduce_weight,
                         const std::optional<Tensor>& squeeze_reduce_bias,
                         const std::optional<Tensor>& squeeze_expand_weight,
                         const std::optional<Tensor>& squeeze_expand_bias,
                         const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                         const std::optional<Text>& activation, bool residual,
                         const std::optional<Text>& squeeze_activation, const Text& squeeze_gate);

Tensor separable_conv2d(Queue& queue, Out out, const Tensor& input, const Tensor& depthwise_weight,
                        const std::optional<Tensor>& depthwise_bias, const Tensor& pointwise_weight,
                        const std::optional<Tensor>& pointwise_bias,
                        const std::optional<Tensor>& residual,
                        const std::optional<Tensor>& squeeze_reduce_weight,
                        const std::optional<Tensor>& squeeze_reduce_bias,
                        const std::optional<Tensor>& squeeze_expand_weight,
                        const std::optional<Tensor>& squeeze_expand_bias,
                        const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                        const std::vector<int64_t>& dilation, const std::optional<Text>& activation,
                        const std::optional<Text>& pointwise_activation,
                        const std::optional<Text>& squeeze_activation, const Text& squeeze_gate);

Tensor dense_conv2d(Queue& queue, Out out, const Tensor& input, const Tensor& weight,
                    const std::optional<Tensor>& bias, const std::optional<Tensor>& residual,
                    const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                    const std::vector<int64_t>& dilation, const std::optional<Text>& activation);

Tensor stem_conv2d(Queue& queue, Out out, const Tensor& input, const Tensor& weight,
                   const std::optional<Tensor>& bias, const std::vector<int64_t>& stride,
                   const std::vector<int64_t>& padding, const std::optional<Text>& activation);

Tensor global_avg_pool2d(Queue& queue, Out out, const Tensor& input);

}  // namespace fastconv::ops
