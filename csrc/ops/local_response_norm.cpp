// fastconv::local_response_norm and its backward pass.
#include "../kernels/local_response_norm.h"

#include "../kernels/cpu/registry.h"
#include "../kernels/cuda/local_response_norm.h"
#include "gpu.h"
#include "out.h"
#include "scratch.h"

namespace fastconv::ops {

namespace {

// Measured on one thread of an AVX-512 core: 0.1 to 0.2 ns an element forward, twice that backward.
constexpr double kNanosecondsAnElement = 0.15;

LocalResponseNormParams params(const char* op, const Tensor& input, int64_t size, double alpha,
                               double beta, double k) {
  LocalResponseNormParams p{};
  p.dtype = dtype_of(input, op);
  FASTCONV_CHECK(input.dim() >= 3, op, ": expected input with 3 dimensions or more, got ",
                 input.dim(), " in shape ", to_string(input));
  FASTCONV_CHECK(size > 0, op, ": expected size greater than zero, got ", size);
  p.layout = layout_of(input);
  p.batch = input.size(0);
  p.channels = input.size(1);
  p.pixels = 1;
  for (int64_t d = 2; d < input.dim(); ++d) p.pixels *= input.size(d);
  p.before = std::min(size / 2, std::max<int64_t>(p.channels - 1, 0));
  p.after = std::min((size - 1) / 2, std::max<int64_t>(p.channels - 1, 0));
  p.scale = alpha / static_cast<double>(size);
  p.beta = beta;
  p.k = k;
  return p;
}

void run(LocalResponseNormParams p, const Tensor& input, double cost_an_element) {
  if (p.pixels == 1) p.layout = Layout::kNHWC;  // the same memory, and full vectors
  if (on_gpu(input)) return run_on_gpu(p, input);
  static const bool is_xeon = supports(Isa::kAMX);
  p.last_cache_is_slow = is_xeon;
  const bool backward = p.grad_output != nullptr;
  count(backward ? local_response_norm_backward_variant(p) : local_response_norm_variant(p));
  const auto kernel =
      backward ? local_response_norm_backward_kernels().run : local_response_norm_kernels().run;
  const int64_t units = local_response_norm_units(p);
  const std::size_t bytes = local_response_norm_scratch(p) *
                            (p.dtype == DType::kFloat64 ? sizeof(double) : sizeof(float));
  const double elements = static_cast<double>(p.batch * p.channels * p.pixels);
  parallel(units, elements * cost_an_element / units, [&](int64_t begin, int64_t end) {
    kernel(p, scratch(Purpose::kOwn, bytes), begin, end);
  });
}

Tensor local_response_norm(Out out, const Tensor& input, int64_t size, double alpha, double beta,
                           double k) {
  const char* op = "local_response_norm";
  LocalResponseNormParams p = params(op, input, size, alpha, beta, k);
  const Tensor x = dense(input, p.layout);
  const Sizes sizes(input.sizes().begin(), input.sizes().end());
  Tensor output = output_of(op, out, x, sizes, p.layout);
  if (input.numel() == 0) return output;
  p.input = x.const_data_ptr();
  p.output = output.mutable_data_ptr();
  run(p, input, kNanosecondsAnElement);
  return output;
}

Tensor local_response_norm_backward(const Tensor& grad_output, const Tensor& input, int64_t size,
                                    double alpha, double beta, double k) {
  const char* op = "local_response_norm_backward";
  LocalResponseNormParams p = params(op, input, size, alpha, beta, k);
  check_like_input(op, "grad_output", grad_output, input);
  FASTCONV_CHECK(
      grad_output.dim() == input.dim() &&
          std::equal(input.sizes().begin(), input.sizes().end(), grad_output.sizes().begin()),
      op, ": expected grad_output of shape ", to_string(input), ", got ", to_string(grad_output));
  const Tensor x = dense(input, p.layout), g = dense(grad_output, p.layout);
  Tensor grad_input = empty_like(x, Sizes(input.sizes().begin(), input.sizes().end()), p.layout);
  if (input.numel() == 0) return grad_input;
  p.input = x.const_data_ptr();
  p.grad_output = g.const_data_ptr();
  p.output = grad_input.mutable_data_ptr();
  run(p, input, 2 * kNanosecondsAnElement);
  return grad_input;
}

}  // namespace

}  // namespace fastconv::ops

FASTCONV_IMPL(local_response_norm, m) {
  fastconv::ops::impl_with_out<&fastconv::ops::local_response_norm>(m, "local_response_norm");
  fastconv::ops::impl_with_direct<&fastconv::ops::local_response_norm_backward>(
      m, "local_response_norm_backward");
}
