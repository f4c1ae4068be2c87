// What inverted_residual and separable_conv2d are told, and the fused kernels' view of it.
#pragma once

#include "../kernels/inverted_residual.h"
#include "convolutions.h"

namespace fastconv::ops {

// What both ops are told; expand and its bias are missing where there is no expansion.
struct Block {
  const char* op;
  const Tensor& input;
  const Tensor* expand_weight;
  const std::optional<Tensor>& expand_bias;
  const Tensor& depthwise_weight;
  const std::optional<Tensor>& depthwise_bias;
  const Tensor& project_weight;
  const std::optional<Tensor>& project_bias;
  const SqueezeExcitation* squeeze;
  const Tensor* residual;
  const std::vector<int64_t>& stride;
  const std::vector<int64_t>& padding;
  const std::vector<int64_t>& dilation;
  const std::optional<Text>& activation;
  const std::optional<Text>& project_activation;
};

// The shape and activations of a block; without vectors where its tensors do not fit one another.
InvertedResidualParams params_of(const Block& block);

// The work of the fused kernels, for a block whose params are fused: it fills output.
std::shared_ptr<Work> float32_work(const Block& block, const InvertedResidualParams& params,
                                   const Tensor& output);
std::shared_ptr<Work> bfloat16_work(const Block& block, const InvertedResidualParams& params,
                                    const Tensor& output);

}  // namespace fastconv::ops
