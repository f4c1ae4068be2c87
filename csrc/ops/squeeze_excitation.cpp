// Squeeze-and-excitation from torch's ops and ours, where no fused kernel serves.
#include <array>

#include "convolutions.h"

namespace fastconv::ops {

namespace {

// An op of torch by name; it gives one tensor.
template <class... Arguments>
Tensor call(const char* name, const char* overload, const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(Arguments)> stack{torch::stable::detail::from(arguments)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

}  // namespace

Gate parse_gate(const Text& name) {
  if (name.value == "sigmoid") return Gate::kSigmoid;
  if (name.value == "hardsigmoid") return Gate::kHardsigmoid;
  fail("expected gate to be 'sigmoid' or 'hardsigmoid', got '", name.value, "'");
}

Tensor squeeze_excitation(const Tensor& input, const SqueezeExcitation& s) {
  const auto dtype = input.scalar_type();
  const std::array<int64_t, 2> pixels{2, 3};
  const std::optional<torch::headeronly::IntHeaderOnlyArrayRef> over{pixels};
  const Tensor mean = call("aten::mean", "dim", input, over, true, std::optional(dtype));
  Queue queue;
  const Tensor squeezed = pointwise_conv2d(queue, nullptr, mean, s.reduce_weight, s.reduce_bias,
                                           std::nullopt, {1, 1}, s.activation);
  const Tensor excited = pointwise_conv2d(queue, nullptr, squeezed, s.expand_weight, s.expand_bias,
                                          std::nullopt, {1, 1}, std::nullopt);
  queue.run();
  const bool soft = parse_gate(s.gate) == Gate::kSigmoid;
  const Tensor gates = call(soft ? "aten::sigmoid" : "aten::hardsigmoid", "", excited);
  return dense(call("aten::mul", "Tensor", input, gates), layout_of(input));
}

}  // namespace fastconv::ops
