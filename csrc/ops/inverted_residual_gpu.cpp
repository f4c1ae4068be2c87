#include "inverted_residual_gpu.h"

#include "../kernels/cuda/inverted_residual.h"
#include "gpu.h"

namespace fastconv::ops {

namespace {

cuda::WeightMatrix matrix_of(const Tensor& weight) {
  return cuda::weight_matrix(weight.const_data_ptr(), weight.size(0), weight.size(1),
                             weight.stride(0), weight.stride(1));
}

const void* data_of(const std::optional<Tensor>& t) {
  return t ? t->const_data_ptr() : nullptr;
}

}  // namespace

std::optional<Tensor> inverted_residual_on_gpu(Out out, const Block& t,
                                               const InvertedResidualParams& params) {
  cuda::InvertedResidualBlockParams p{};
  static_cast<InvertedResidualShape&>(p) = params;
  const auto vector_of = [&](const std::optional<Tensor>& bias) {
    return bias ? std::optional(dense(narrowed(*bias, t.input), Layout::kNCHW)) : std::nullopt;
  };
  const std::optional<Tensor> biases[] = {vector_of(t.expand_bias), vector_of(t.depthwise_bias),
                                          vector_of(t.project_bias)};
  const Tensor x = dense(t.input, p.layout);
  const auto residual = t.residual ? std::optional(dense(*t.residual, p.layout)) : std::nullopt;
  p.input = x.const_data_ptr();
  p.residual = data_of(residual);
  p.expand_bias = data_of(biases[0]), p.depthwise_bias = data_of(biases[1]);
  p.project_bias = data_of(biases[2]);
  if (t.expand_weight) p.expand = matrix_of(*t.expand_weight);
  p.project = matrix_of(t.project_weight);
  const Tensor filters = narrowed(t.depthwise_weight, t.input);
  p.depthwise_weight = filters.const_data_ptr();
  p.stride_channel = filters.stride(0);
  p.stride_row = filters.stride(2), p.stride_column = filters.stride(3);
  p.activation = params.activation, p.project_activation = params.project_activation;
  p.output = out ? out->mutable_data_ptr() : nullptr;
  if (!cuda::complete(p, gpu_of(x))) return std::nullopt;
  const Sizes sizes{p.batch, p.out_channels, p.out_height, p.out_width};
  Tensor output = output_of(t.op, out, t.input, sizes, p.layout);
  p.output = output.mutable_data_ptr();
  run_on_gpu(p, x);
  return output;
}

}  // namespace fastconv::ops
