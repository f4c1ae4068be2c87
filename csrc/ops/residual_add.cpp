// fastconv::residual_add, fastconv::activation_backward.
#include "../kernels/residual_add.h"

#include "../kernels/activation_backward.h"
#include "../kernels/cpu/registry.h"
#include "../kernels/cuda/activation_backward.h"
#include "../kernels/cuda/residual_add.h"
#include "gpu.h"
#include "out.h"

namespace fastconv::ops {

namespace {

constexpr double kNanosecondsAByte = 0.05;  // 20 GB/s a thread, from the caches

// The smallest stride that takes height and width of the residual to those of the input, 0 where
// none does. Any stride takes one pixel to one: there the other axis decides.
int64_t shortcut_stride(const ResidualAddParams& p) {
  const int64_t stride = std::max(p.height > 0 ? div_up(p.residual_height, p.height) : 1,
                                  p.width > 0 ? div_up(p.residual_width, p.width) : 1);
  const bool fits = stride > 0 && div_up(p.residual_height, stride) == p.height &&
                    div_up(p.residual_width, stride) == p.width;
  return fits ? stride : 0;
}

bool same_size(const Tensor& a, const Tensor& b) {
  return a.dim() == b.dim() && std::equal(a.sizes().begin(), a.sizes().end(), b.sizes().begin());
}

void check_on_gpu(const char* op, const Tensor& t) {
  FASTCONV_CHECK(on_gpu(t), op, ": there is no kernel for a CPU, where a mask costs what it saves");
}

// With a mask where there is a place for one.
Tensor add(const char* op, Out out, const Tensor& input, const Tensor& residual,
           Activation activation, Tensor* mask) {
  ResidualAddParams p{};
  p.dtype = dtype_of(input, op);
  p.activation = activation;
  check_like_input(op, "residual", residual, input);
  FASTCONV_CHECK(residual.dim() == input.dim(), op, ": expected residual with ", input.dim(),
                 " dimensions as input, got ", to_string(residual), " for input ",
                 to_string(input));

  p.layout = layout_of(input);
  p.stride = 1;
  if (same_size(input, residual)) {
    p.batch = p.height = p.width = 1;
    p.channels = p.residual_channels = input.numel();
    p.residual_height = p.residual_width = 1;
  } else {
    check_dim(op, "input", input, 4);
    p.batch = input.size(0), p.channels = input.size(1);
    p.height = input.size(2), p.width = input.size(3);
    p.residual_channels = residual.size(1);
    p.residual_height = residual.size(2), p.residual_width = residual.size(3);
    p.stride = shortcut_stride(p);
    FASTCONV_CHECK(
        residual.size(0) == p.batch && p.residual_channels <= p.channels && p.stride > 0, op,
        ": expected residual of input's shape, or with fewer channels and a whole stride more ",
        "pixels, got ", to_string(residual), " for input ", to_string(input));
  }

  const Tensor x = dense(input, p.layout), r = dense(residual, p.layout);
  const Sizes sizes(input.sizes().begin(), input.sizes().end());
  Tensor output = output_of(op, out, x, sizes, p.layout);
  p.input = x.const_data_ptr();
  p.residual = r.const_data_ptr();
  p.output = output.mutable_data_ptr();
  if (mask) {
    *mask = empty_bytes(input, mask_bytes(input.numel()));
    p.mask = static_cast<uint8_t*>(mask->mutable_data_ptr());
  }
  if (on_gpu(input)) {
    run_on_gpu(p, input);
    return output;
  }

  count(residual_add_variant(p));
  const int64_t units = residual_add_units(p);
  const double bytes = 3.0 * input.numel() * input.element_size();
  const auto forward = residual_add_kernels().forward;
  parallel(units, bytes * kNanosecondsAByte / std::max<int64_t>(units, 1),
           [&](int64_t begin, int64_t end) { forward(p, begin, end); });
  return output;
}

Tensor residual_add(Out out, const Tensor& input, const Tensor& residual,
                    const std::optional<Text>& activation) {
  return add("residual_add", out, input, residual, parse_activation(activation), nullptr);
}

std::tuple<Tensor, Tensor> residual_add_with_mask(const Tensor& input, const Tensor& residual,
                                                  const Text& activation) {
  const char* op = "residual_add_with_mask";
  check_on_gpu(op, input);
  const Activation kind = parse_activation(activation);
  FASTCONV_CHECK(is_rectifier(kind), op, ": expected activation to be 'relu' or 'relu6', got '",
                 activation.value, "'");
  FASTCONV_CHECK(same_size(input, residual), op, ": expected residual of input's shape, got ",
                 to_string(residual), " for input ", to_string(input));
  Tensor mask;
  Tensor output = add(op, nullptr, input, residual, kind, &mask);
  return {output, mask};
}

Tensor activation_backward_from_mask(const Tensor& grad_output, const Tensor& mask,
                                     bool channels_last) {
  const char* op = "activation_backward_from_mask";
  check_on_gpu(op, grad_output);
  ActivationBackwardParams p{};
  p.dtype = dtype_of(grad_output, op);
  p.elements = grad_output.numel();
  const int64_t bytes = mask_bytes(p.elements);
  FASTCONV_CHECK(mask.element_size() == 1 && mask.numel() == bytes && mask.is_contiguous(), op,
                 ": expected mask of ", bytes, " bytes, got ", to_string(mask));
  FASTCONV_CHECK(mask.is_cpu() == grad_output.is_cpu() &&
                     mask.get_device_index() == grad_output.get_device_index(),
                 op, ": expected mask on the device of grad_output");
  const Layout layout = channels_last && grad_output.dim() == 4 ? Layout::kNHWC : Layout::kNCHW;
  const Tensor g = dense(grad_output, layout);
  Tensor grad_input = empty_like(
      grad_output, Sizes(grad_output.sizes().begin(), grad_output.sizes().end()), layout);
  p.grad_output = g.const_data_ptr();
  p.mask = static_cast<const uint8_t*>(mask.const_data_ptr());
  p.grad_input = grad_input.mutable_data_ptr();
  run_on_gpu(p, grad_output);
  return grad_input;
}

}  // namespace

Tensor activation_backward(const Tensor& grad_output, const Tensor& z,
                           const std::optional<Text>& activation) {
  const char* op = "activation_backward";
  ActivationBackwardParams p{};
  p.dtype = dtype_of(z, op);
  p.activation = parse_activation(activation);
  check_like_input(op, "grad_output", grad_output, z);
  FASTCONV_CHECK(same_size(grad_output, z), op, ": expected grad_output of shape ", to_string(z),
                 ", got ", to_string(grad_output));

  const Layout layout = layout_of(z);
  const Tensor g = dense(grad_output, layout), zd = dense(z, layout);
  Tensor grad_input = empty_like(z, Sizes(z.sizes().begin(), z.sizes().end()), layout);
  p.grad_output = g.const_data_ptr();
  p.z = zd.const_data_ptr();
  p.grad_input = grad_input.mutable_data_ptr();
  p.elements = z.numel();
  if (on_gpu(z)) {
    run_on_gpu(p, z);
    return grad_input;
  }

  count(Variant::activation_backward_elementwise);
  const auto forward = activation_backward_kernels().forward;
  parallel(activation_backward_units(p),
           3.0 * kActivationBackwardBlock * z.element_size() * kNanosecondsAByte,
           [&](int64_t begin, int64_t end) { forward(p, begin, end); });
  return grad_input;
}

}  // namespace fastconv::ops

FASTCONV_IMPL(residual_add, m) {
  fastconv::ops::impl_with_out<&fastconv::ops::residual_add>(m, "residual_add");
  m.impl("residual_add_with_mask", TORCH_BOX(&fastconv::ops::residual_add_with_mask));
  fastconv::ops::impl_with_direct<&fastconv::ops::activation_backward>(m, "activation_backward");
  m.impl("activation_backward_from_mask", TORCH_BOX(&fastconv::ops::activation_backward_from_mask));
}
