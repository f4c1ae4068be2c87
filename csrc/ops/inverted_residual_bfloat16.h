// The fused kernel of inverted_residual and separable_conv2d in bfloat16.
#pragma once

#include "../kernels/inverted_residual.h"
#include "out.h"

namespace fastconv::ops {

struct InvertedResidualTensors {
  const Tensor& input;
  const Tensor* expand_weight;  // null without expansion
  const std::optional<Tensor>& expand_bias;
  const Tensor& depthwise_weight;
  const std::optional<Tensor>& depthwise_bias;
  const Tensor& project_weight;
  const std::optional<Tensor>& project_bias;
  const Tensor* residual;
};

// The tensors fit the shape, which inverted_residual_is_fused.
Tensor inverted_residual_bfloat16(Out out, const char* op, const InvertedResidualShape& shape,
                                  const InvertedResidualTensors& tensors, Activation activation,
                                  Activation project_activation);

}  // namespace fastconv::ops
