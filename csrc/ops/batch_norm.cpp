// fastconv::batch_norm and its backward pass on CPU tensors.
#include "batch_norm.h"

#include <tuple>

#include "../kernels/cpu/registry.h"
#include "kept_memory.h"
#include "scratch.h"

namespace fastconv::ops {

using Optional = std::optional<Tensor>;

// A parameter or statistic of each channel as a dense tensor, null where there is none.
Optional of_channels(const char* op, const char* name, const Optional& t, const Tensor& input) {
  if (!t) return std::nullopt;
  using torch::headeronly::ScalarType;
  const auto wanted =
      input.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  FASTCONV_CHECK(t->is_cpu(), op, ": expected ", name, " on the same device as input (cpu)");
  FASTCONV_CHECK(t->scalar_type() == wanted, op, ": expected ", name, " of dtype ",
                 torch::headeronly::toString(wanted), " for an input of ",
                 torch::headeronly::toString(input.scalar_type()), ", got ",
                 torch::headeronly::toString(t->scalar_type()));
  FASTCONV_CHECK(t->dim() == 1 && t->size(0) == input.size(1), op, ": expected ", name,
                 " of shape (", input.size(1), "), got ", to_string(*t));
  return dense(*t, Layout::kNCHW);
}

const void* data(const Optional& t) {
  return t ? t->const_data_ptr() : nullptr;
}

BatchNormParams batch_norm_params(const char* op, const Tensor& input, double eps,
                                  const std::optional<Text>& activation) {
  BatchNormParams p{};
  p.dtype = dtype_of(input, op);
  p.activation = parse_activation(activation);
  FASTCONV_CHECK(input.dim() >= 2, op, ": expected input with 2 dimensions or more, got ",
                 input.dim(), " in shape ", to_string(input));
  p.layout = layout_of(input);
  p.batch = input.size(0);
  p.channels = input.size(1);
  p.pixels = 1;
  for (int64_t d = 2; d < input.dim(); ++d) p.pixels *= input.size(d);
  p.eps = eps;
  return p;
}

// One tensor of a number a channel, in the accumulation type.
Tensor new_of_channels(const Tensor& input, bool used) {
  using torch::headeronly::ScalarType;
  const auto dtype =
      input.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  return torch::stable::new_empty(input, {used ? input.size(1) : 0}, dtype);
}

namespace {

bool same_sizes(const Tensor& a, const Tensor& b) {
  return a.dim() == b.dim() && std::equal(a.sizes().begin(), a.sizes().end(), b.sizes().begin());
}

// Memory for the sums and coefficients of a call, and the layout the kernels take.
void prepare(BatchNormParams& p) {
  if (p.pixels == 1) p.layout = Layout::kNHWC;  // the same memory, and full vectors
  const size_t partials = batch_norm_partials(p) * sizeof(double);
  auto* memory = static_cast<char*>(
      scratch(Purpose::kShared, partials + batch_norm_coefficients(p) * sizeof(double)));
  p.partials = reinterpret_cast<double*>(memory);
  p.coefficients = memory + partials;
}

std::tuple<Tensor, Tensor, Tensor> batch_norm(const Tensor& input, const Optional& weight,
                                              const Optional& bias, const Optional& mean,
                                              const Optional& var, double eps,
                                              const std::optional<Text>& activation) {
  const char* op = "batch_norm";
  std::optional<KeepsMemory> keeps;
  if (!mean) keeps.emplace();
  BatchNormParams p = batch_norm_params(op, input, eps, activation);
  FASTCONV_CHECK(mean.has_value() == var.has_value(), op, ": expected mean and var, or neither");
  p.training = !mean;
  const Optional w = of_channels(op, "weight", weight, input);
  const Optional b = of_channels(op, "bias", bias, input);
  const Optional m = of_channels(op, "mean", mean, input);
  const Optional v = of_channels(op, "var", var, input);
  const Tensor x = dense(input, p.layout);
  Tensor output = empty_like(x, Sizes(input.sizes().begin(), input.sizes().end()), p.layout);
  Tensor batch_mean = new_of_channels(input, p.training);
  Tensor batch_var = new_of_channels(input, p.training);
  FASTCONV_CHECK(input.numel() > 0 || !p.training, op,
                 ": expected values to take the statistics of, got input ", to_string(input));
  if (input.numel() == 0) return {output, batch_mean, batch_var};
  p.input = x.const_data_ptr();
  p.output = output.mutable_data_ptr();
  p.weight = data(w);
  p.bias = data(b);
  p.mean = const_cast<void*>((p.training ? batch_mean : *m).const_data_ptr());
  p.var = const_cast<void*>((p.training ? batch_var : *v).const_data_ptr());

  prepare(p);
  count(batch_norm_variant(p));
  const BatchNormKernels& kernels = batch_norm_kernels();
  if (p.training) {
    over_units(p, kernels.sums, 1);
    kernels.finish(p);
  }
  kernels.fold(p);
  over_units(p, kernels.apply, 2);
  return {output, batch_mean, batch_var};
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_backward(const Tensor& grad_output,
                                                       const Tensor& input, const Optional& weight,
                                                       const Optional& bias, const Tensor& mean,
                                                       const Tensor& var, bool training, double eps,
                                                       const std::optional<Text>& activation,
                                                       std::vector<bool> output_mask) {
  const char* op = "batch_norm_backward";
  const KeepsMemory keeps;
  BatchNormParams p = batch_norm_params(op, input, eps, activation);
  check_like_input(op, "grad_output", grad_output, input);
  FASTCONV_CHECK(same_sizes(grad_output, input), op, ": expected grad_output of shape ",
                 to_string(input), ", got ", to_string(grad_output));
  p.training = training;
  const Optional w = of_channels(op, "weight", weight, input);
  const Optional b = of_channels(op, "bias", bias, input);
  const Optional m = of_channels(op, "mean", mean, input);
  const Optional v = of_channels(op, "var", var, input);
  const Tensor x = dense(input, p.layout), g = dense(grad_output, p.layout);
  const bool wants_parameters = output_mask[1] || output_mask[2];
  Tensor grad_input = output_mask[0]
                          ? empty_like(x, Sizes(x.sizes().begin(), x.sizes().end()), p.layout)
                          : Tensor(torch::stable::new_empty(input, {0}));
  Tensor grad_weight = new_of_channels(input, true), grad_bias = new_of_channels(input, true);
  if (input.numel() == 0) {
    zero(grad_weight);
    zero(grad_bias);
    return {grad_input, grad_weight, grad_bias};
  }
  p.input = x.const_data_ptr();
  p.grad_output = g.const_data_ptr();
  p.output = grad_input.mutable_data_ptr();
  p.weight = data(w);
  p.bias = data(b);
  p.mean = const_cast<void*>(m->const_data_ptr());
  p.var = const_cast<void*>(v->const_data_ptr());
  p.grad_weight = grad_weight.mutable_data_ptr();
  p.grad_bias = grad_bias.mutable_data_ptr();

  prepare(p);
  count(batch_norm_backward_variant(p));
  const BatchNormKernels& kernels = batch_norm_backward_kernels();
  batch_norm_kernels().fold(p);
  if (training || wants_parameters) {
    over_units(p, kernels.sums, 2);
    kernels.finish(p);
  }
  if (output_mask[0]) {
    if (training) kernels.fold(p);
    over_units(p, kernels.apply, 3);
  }
  return {grad_input, grad_weight, grad_bias};
}

}  // namespace

}  // namespace fastconv::ops

STABLE_TORCH_LIBRARY_IMPL(fastconv, CPU, m) {
  m.impl("batch_norm", TORCH_BOX(&fastconv::ops::batch_norm));
  m.impl("batch_norm_backward", TORCH_BOX(&fastconv::ops::batch_norm_backward));
}
