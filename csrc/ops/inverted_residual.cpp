// fastconv::inverted_residual and fastconv::separable_conv2d.
#include "../kernels/inverted_residual.h"

#include "gpu.h"
#include "inverted_residual_block.h"
#include "inverted_residual_gpu.h"
#include "queued.h"

namespace fastconv::ops {

namespace {

using Ints = std::vector<int64_t>;
using Optional = std::optional<Tensor>;
using Name = std::optional<Text>;

Tensor by_parts(Queue& queue, Out out, const Block& b) {
  const Tensor hidden = b.expand_weight
                            ? pointwise_conv2d(queue, nullptr, b.input, *b.expand_weight,
                                               b.expand_bias, std::nullopt, {1, 1}, b.activation)
                            : b.input;
  queue.run();
  Tensor filtered = depthwise_conv2d(nullptr, hidden, narrowed(b.depthwise_weight, b.input),
                                     narrowed(b.depthwise_bias, b.input), b.stride, b.padding,
                                     b.dilation, b.activation);
  if (b.squeeze) filtered = squeeze_excitation(filtered, *b.squeeze);
  const Optional residual = b.residual ? Optional(*b.residual) : std::nullopt;
  Tensor output = pointwise_conv2d(queue, out, filtered, b.project_weight, b.project_bias, residual,
                                   {1, 1}, b.project_activation);
  queue.run();
  return output;
}

Tensor run(Queue& queue, Out out, const Block& b) {
  const InvertedResidualParams p = params_of(b);
  if (on_gpu(b.input)) {
    queue.run();
    std::optional<Tensor> output;
    if (p.has_vectors) output = inverted_residual_on_gpu(out, b, p);
    return output ? *output : by_parts(queue, out, b);
  }
  if (!inverted_residual_is_fused(p)) {
    Tensor output = by_parts(queue, out, b);  // which may raise
    count(inverted_residual_variant(p));
    return output;
  }
  queue.fill(b.input, p.layout);
  if (b.residual) queue.fill(*b.residual, p.layout);
  const Sizes sizes{p.batch, p.out_channels, p.out_height, p.out_width};
  Tensor output = output_of(b.op, out, b.input, sizes, p.layout);
  const bool halves = p.dtype == DType::kBFloat16;
  queue.add(halves ? bfloat16_work(b, p, output) : float32_work(b, p, output));
  return output;
}

// The optional arguments of a squeeze-and-excitation, which come together or not at all.
std::optional<SqueezeExcitation> squeeze_of(const char* op, const Optional& reduce_weight,
                                            const Optional& reduce_bias,
                                            const Optional& expand_weight,
                                            const Optional& expand_bias, const Name& activation,
                                            const Text& gate) {
  FASTCONV_CHECK(reduce_weight.has_value() == expand_weight.has_value(), op,
                 ": expected squeeze_reduce_weight and squeeze_expand_weight together");
  parse_gate(gate);
  if (!reduce_weight) return std::nullopt;
  return SqueezeExcitation{*reduce_weight, reduce_bias, *expand_weight,
                           expand_bias,    activation,  gate};
}

}  // namespace

Tensor inverted_residual(Queue& queue, Out out, const Tensor& input, const Tensor& expand_weight,
                         const Optional& expand_bias, const Tensor& depthwise_weight,
                         const Optional& depthwise_bias, const Tensor& project_weight,
                         const Optional& project_bias, const Optional& squeeze_reduce_weight,
                         const Optional& squeeze_reduce_bias, const Optional& squeeze_expand_weight,
                         const Optional& squeeze_expand_bias, const Ints& stride,
                         const Ints& padding, const Name& activation, bool residual,
                         const Name& squeeze_activation, const Text& squeeze_gate) {
  constexpr const char* kOp = "inverted_residual";
  const auto squeeze =
      squeeze_of(kOp, squeeze_reduce_weight, squeeze_reduce_bias, squeeze_expand_weight,
                 squeeze_expand_bias, squeeze_activation, squeeze_gate);
  return run(queue, out,
             {kOp,
              input,
              &expand_weight,
              expand_bias,
              depthwise_weight,
              depthwise_bias,
              project_weight,
              project_bias,
              squeeze ? &*squeeze : nullptr,
              residual ? &input : nullptr,
              stride,
              padding,
              {1, 1},
              activation,
              std::nullopt});
}

Tensor separable_conv2d(Queue& queue, Out out, const Tensor& input, const Tensor& depthwise_weight,
                        const Optional& depthwise_bias, const Tensor& pointwise_weight,
                        const Optional& pointwise_bias, const Optional& residual,
                        const Optional& squeeze_reduce_weight, const Optional& squeeze_reduce_bias,
                        const Optional& squeeze_expand_weight, const Optional& squeeze_expand_bias,
                        const Ints& stride, const Ints& padding, const Ints& dilation,
                        const Name& activation, const Name& pointwise_activation,
                        const Name& squeeze_activation, const Text& squeeze_gate) {
  constexpr const char* kOp = "separable_conv2d";
  const auto squeeze =
      squeeze_of(kOp, squeeze_reduce_weight, squeeze_reduce_bias, squeeze_expand_weight,
                 squeeze_expand_bias, squeeze_activation, squeeze_gate);
  return run(queue, out,
             {kOp, input, nullptr, std::nullopt, depthwise_weight, depthwise_bias, pointwise_weight,
              pointwise_bias, squeeze ? &*squeeze : nullptr, residual ? &*residual : nullptr,
              stride, padding, dilation, activation, pointwise_activation});
}

}  // namespace fastconv::ops

FASTCONV_IMPL(inverted_residual, m) {
  fastconv::ops::impl_with_out<&fastconv::ops::inverted_residual>(m, "inverted_residual");
  fastconv::ops::impl_with_out<&fastconv::ops::separable_conv2d>(m, "separable_conv2d");
}
