// fastconv::pointwise_conv2d and its backward pass.
#include "../kernels/pointwise_panels.h"

#include <array>
#include <tuple>

#include "../kernels/cpu/pointwise_conv2d_backward_tiles.h"
#include "../kernels/cpu/registry.h"
#include "../kernels/cuda/pointwise_conv2d.h"
#include "convolutions.h"
#include "gpu.h"
#include "kept_memory.h"
#include "scratch.h"

namespace fastconv::ops {

namespace {

// Whether bfloat16 is multiplied in pairs rather than widened first. Contiguous pixels must be
// copied together either way; us by pairs / widened, batch 16, one core of a Zen 5: 24 -> 144,
// 56x56: AVX512-BF16 930 / 2353, AVX-512 1675 / 2554, AVX2 4048 / 5262; 960 -> 160, 7x7: 539 /
// 1083, 1091 / 1093, 3506 / 2264.
bool multiplies_pairs(const PointwiseConv2dParams& p) {
  const bool long_vectors = current_isa() != Isa::kScalar && current_isa() != Isa::kAVX2;
  const bool pays = p.layout == Layout::kNHWC || p.weight_is_pairs || long_vectors;
  return p.dtype == DType::kBFloat16 && !is_dots(p) && !weight_is_panels(p) && pays;
}

}  // namespace

const PointwiseConv2dKernels& pointwise_conv2d_kernels_of(const PointwiseConv2dParams& p) {
  return multiplies_pairs(p) ? pointwise_conv2d_bfloat16_kernels() : pointwise_conv2d_kernels();
}

namespace {

bool fits_tiles(const PointwiseConv2dWeightGradientParams& p) {
  return p.dtype == DType::kBFloat16 && p.layout == Layout::kNHWC && !is_subsampled(p) &&
         p.grad_bias == nullptr;
}

}  // namespace

const PointwiseConv2dBackwardKernels& pointwise_conv2d_backward_kernels_of(
    const PointwiseConv2dWeightGradientParams& p) {
  const PointwiseConv2dBackwardKernels* tiles = pointwise_conv2d_backward_tiles();
  return tiles && fits_tiles(p) ? *tiles : pointwise_conv2d_backward_kernels();
}

namespace {

constexpr const char* kOp = "pointwise_conv2d";
constexpr double kFlopsANanosecond = 100;
constexpr double kNanosecondsAByte = 0.05;

// Sizes of input and weight, checked.
PointwiseConv2dShape shape_of(const Tensor& input, const Tensor& weight,
                              const std::vector<int64_t>& stride) {
  check_dim(kOp, "input", input, 4);
  const bool panels = is_panels(weight), pairs = is_pairs(weight, input);
  if (!panels) check_dim(kOp, "weight", weight, 4);
  if (!pairs) check_like_input(kOp, "weight", weight, input);
  PointwiseConv2dShape s{};
  s.dtype = dtype_of(input, kOp);
  s.layout = layout_of(input);
  s.batch = input.size(0), s.in_channels = input.size(1);
  s.in_height = input.size(2), s.in_width = input.size(3);
  s.out_channels = weight.size(panels ? 1 : 0);
  const int64_t columns = pairs ? (s.in_channels + 1) / 2 : s.in_channels;
  const bool fits = panels
                        ? weight.size(2) == columns
                        : weight.size(1) == columns && weight.size(2) == 1 && weight.size(3) == 1;
  FASTCONV_CHECK(fits, kOp, ": expected weight of shape (out_channels, ", columns,
                 ", 1, 1) for input ", to_string(input), ", got ", to_string(weight));
  FASTCONV_CHECK(s.in_channels > 0 && s.out_channels > 0 && s.in_height > 0 && s.in_width > 0, kOp,
                 ": expected input and weight to have channels and pixels, got input ",
                 to_string(input), " and weight ", to_string(weight));
  FASTCONV_CHECK(stride.size() == 2 && stride[0] > 0 && stride[1] > 0, kOp,
                 ": expected stride to be a positive int or a pair of them, got ",
                 to_string(stride));
  s.stride_h = stride[0], s.stride_w = stride[1];
  s.height = (s.in_height - 1) / s.stride_h + 1;  // div_up would overflow by a huge stride
  s.width = (s.in_width - 1) / s.stride_w + 1;
  return s;
}

Sizes output_sizes(const PointwiseConv2dShape& s) {
  return {s.batch, s.out_channels, s.height, s.width};
}

void check_shape(const char* name, const Tensor& t, const Tensor& input, const Sizes& wanted,
                 bool may_be_wide = false) {
  may_be_wide ? check_like_input_or_wide(kOp, name, t, input)
              : check_like_input(kOp, name, t, input);
  FASTCONV_CHECK(t.dim() == int64_t(wanted.size()) &&
                     std::equal(wanted.begin(), wanted.end(), t.sizes().begin()),
                 kOp, ": expected ", name, " of shape ", to_string(wanted), ", got ", to_string(t));
}

// One pixel an image: both orders are the same memory, and the kernels of channels_last have
// vectors of channels.
Layout kernel_layout(const PointwiseConv2dShape& s) {
  return s.in_height * s.in_width == 1 ? Layout::kNHWC : s.layout;
}

Variant variant_of(const PointwiseConv2dParams& p) {
  const bool as_it_is =
      weight_is_panels(p) && p.layout == Layout::kNHWC && element_size(p.dtype) > 2;
  return as_it_is ? Variant::pointwise_conv2d_nhwc : pointwise_conv2d_variant(p);
}

class PointwiseWork final : public Work {
 public:
  explicit PointwiseWork(const PointwiseConv2dParams& p)
      : Work(variant_of(p)),
        kernels_(pointwise_conv2d_kernels_of(p)),
        p_(p),
        plan_(kernels_.plan(p)) {
    const double weights = double(p.in_channels) * p.out_channels;
    units[0] = plan_.prepare_units, units[1] = plan_.units;
    cost[0] = plan_.prepare_units > 0 ? weights * 8 * kNanosecondsAByte : 0;
    cost[1] = 2.0 * p.batch * p.height * p.width * weights / kFlopsANanosecond;
    shared_bytes = plan_.prepared_bytes;
  }

  void run(int stage, char* shared, int64_t begin, int64_t end) override {
    if (stage == 0) return kernels_.prepare(p_, shared, begin, end);
    kernels_.run(p_, shared, scratch(Purpose::kOwn, plan_.scratch_bytes), begin, end);
  }

 private:
  const PointwiseConv2dKernels& kernels_;
  PointwiseConv2dParams p_;
  PointwiseConv2dPlan plan_;
};

void run_on_gpu_in_splits(const PointwiseConv2dParams& p, const Tensor& input) {
  const int64_t splits = cuda::splits_of(p, gpu_of(input));
  if (splits == 1) return run_on_gpu(p, input);
  cuda::PointwiseConv2dJoinParams q{};
  static_cast<PointwiseConv2dParams&>(q) = p;
  q.splits = splits;
  const int64_t element = p.dtype == DType::kFloat64 ? 8 : 4;
  const Tensor partial = empty_bytes(input, splits * cuda::output_elements(p) * element);
  q.partial = partial.mutable_data_ptr();
  run_on_gpu(static_cast<const cuda::PointwiseConv2dSplitParams&>(q), input);
  run_on_gpu(q, input);
}

// p, whose layout is that of its kernel, may point to the copies.
void add(Queue& queue, const PointwiseConv2dParams& p, const Tensor& input, Copies copies) {
  if (on_gpu(input)) {
    queue.run();
    return run_on_gpu_in_splits(p, input);
  }
  auto work = std::make_shared<PointwiseWork>(p);
  work->copies = std::move(copies);
  queue.add(std::move(work));
}

}  // namespace

bool is_panels(const Tensor& weight) {
  if (weight.dim() != 3 || weight.size(0) != 1 || on_gpu(weight)) return false;
  FASTCONV_CHECK(weight.is_contiguous(), kOp,
                 ": expected a weight in the memory order of pack_pointwise_panels");
  return true;
}

bool is_pairs(const Tensor& weight, const Tensor& input) {
  using torch::headeronly::ScalarType;
  const bool fits = input.scalar_type() == ScalarType::BFloat16 &&
                    weight.scalar_type() == ScalarType::Int && !on_gpu(weight);
  if (!fits) return false;
  FASTCONV_CHECK(weight.dim() == 4 && (weight.size(0) == 1 || weight.stride(0) == 1), kOp,
                 ": expected an int32 weight in the memory order of pack_pointwise_pairs");
  return true;
}

Tensor pointwise_conv2d(Queue& queue, Out out, const Tensor& input, const Tensor& weight,
                        const std::optional<Tensor>& bias, const std::optional<Tensor>& residual,
                        const std::vector<int64_t>& stride, const std::optional<Text>& activation) {
  PointwiseConv2dParams p{};
  static_cast<PointwiseConv2dShape&>(p) = shape_of(input, weight, stride);
  p.activation = parse_activation(activation);
  p.weight_is_pairs = is_pairs(weight, input);
  const Sizes sizes = output_sizes(p);
  if (bias) check_shape("bias", *bias, input, {p.out_channels}, true);
  if (residual) check_shape("residual", *residual, input, sizes);

  const Layout layout = p.layout;
  queue.fill(input, layout);
  if (residual) queue.fill(*residual, layout);
  Copies copies;
  p.input = copies.read(input, layout);
  p.weight = weight.const_data_ptr();
  const bool panels = is_panels(weight);
  p.weight_out_stride = panels ? kInPanels : weight.stride(0);
  p.weight_in_stride = panels ? kInPanels : weight.stride(1);
  p.layout = kernel_layout(p);
  p.bias_is_float32 = bias && is_wide(*bias, input) && !on_gpu(input) && multiplies_pairs(p);
  p.bias = p.bias_is_float32 ? copies.read(bias) : copies.read_narrowed(bias, input);
  p.residual = copies.read(residual, layout);
  Tensor output = output_of(kOp, out, input, sizes, layout);
  p.output = output.mutable_data_ptr();
  if (p.batch > 0) add(queue, p, input, std::move(copies));
  return output;
}

namespace {

// A product with the transposed weight; a stride above one then spreads its pixels over zeros.
Tensor grad_input(const Tensor& grad, const Tensor& weight, const Tensor& input,
                  const PointwiseConv2dShape& s) {
  const bool spreads = s.stride_h > 1 || s.stride_w > 1;
  Tensor compact = empty_like(grad, {s.batch, s.in_channels, s.height, s.width}, s.layout);
  PointwiseConv2dParams p{};
  static_cast<PointwiseConv2dShape&>(p) = s;
  std::swap(p.in_channels, p.out_channels);
  p.in_height = s.height, p.in_width = s.width;
  p.stride_h = p.stride_w = 1;
  p.input = grad.const_data_ptr();
  p.weight = weight.const_data_ptr();
  p.weight_out_stride = weight.stride(1), p.weight_in_stride = weight.stride(0);
  p.output = compact.mutable_data_ptr();
  p.layout = kernel_layout(p);
  Queue queue;
  if (s.batch > 0) add(queue, p, grad, {});
  queue.run();
  if (!spreads) return compact;

  Tensor result = empty_like(grad, Sizes(input.sizes().begin(), input.sizes().end()), s.layout);
  PointwiseConv2dSpreadParams q{};
  static_cast<PointwiseConv2dShape&>(q) = s;
  q.compact = compact.const_data_ptr();
  q.grad_input = result.mutable_data_ptr();
  if (on_gpu(grad)) {
    run_on_gpu(q, grad);
    return result;
  }
  const auto spread = pointwise_conv2d_backward_kernels().spread;
  const double bytes = double(s.in_channels) * s.in_width * input.element_size();
  parallel(s.batch * s.in_height, bytes * kNanosecondsAByte,
           [&](int64_t begin, int64_t end) { spread(q, begin, end); });
  return result;
}

void run_weight_gradient_on_gpu(const PointwiseConv2dWeightGradientParams& p, const Tensor& input) {
  cuda::PointwiseConv2dSumParams q{};
  static_cast<PointwiseConv2dWeightGradientParams&>(q) = p;
  q.splits = cuda::splits_of(p, gpu_of(input));
  const int64_t element = p.dtype == DType::kFloat64 ? 8 : 4;
  const Tensor partial = empty_bytes(input, q.splits * cuda::partial_elements(p) * element);
  q.partial = partial.mutable_data_ptr();
  run_on_gpu(static_cast<const cuda::PointwiseConv2dPartialParams&>(q), input);
  run_on_gpu(q, input);
}

void run_weight_gradient(PointwiseConv2dWeightGradientParams p, const Tensor& input) {
  p.layout = kernel_layout(p);
  if (on_gpu(input)) return run_weight_gradient_on_gpu(p, input);
  const PointwiseConv2dBackwardKernels& kernels = pointwise_conv2d_backward_kernels_of(p);
  const PointwiseConv2dWeightGradientPlan plan = kernels.plan(p);
  if (&kernels == pointwise_conv2d_backward_tiles()) p.splits = plan.units;
  const double pixels = double(p.batch) * p.height * p.width;
  const double flops = 2.0 * pixels * p.out_channels * (p.grad_weight ? p.in_channels : 1);
  count(p.layout == Layout::kNHWC ? Variant::pointwise_conv2d_weight_gradient_nhwc
                                  : Variant::pointwise_conv2d_weight_gradient_nchw);
  void* partials = scratch(Purpose::kShared, plan.partials_bytes);
  parallel(plan.units, flops / kFlopsANanosecond / plan.units, [&](int64_t begin, int64_t end) {
    kernels.run(p, partials, scratch(Purpose::kOwn, plan.scratch_bytes), begin, end);
  });
  parallel(plan.reduce_units, plan.partials_bytes * kNanosecondsAByte / plan.reduce_units,
           [&](int64_t begin, int64_t end) {
             pointwise_conv2d_backward_kernels().reduce(p, partials, begin, end);
           });
}

// grad_output is that of the sum before the activation. What output_mask leaves out comes back as
// an empty tensor.
std::tuple<Tensor, Tensor, Tensor> pointwise_conv2d_backward(const Tensor& grad_output,
                                                             const Tensor& input,
                                                             const Tensor& weight,
                                                             const std::vector<int64_t>& stride,
                                                             const std::vector<bool>& output_mask) {
  const KeepsMemory keeps;
  check_dim(kOp, "weight", weight, 4);
  const PointwiseConv2dShape s = shape_of(input, weight, stride);
  check_shape("grad_output", grad_output, input, output_sizes(s));
  FASTCONV_CHECK(output_mask.size() == 3, kOp, ": expected output_mask with 3 values, got ",
                 output_mask.size());
  const Tensor grad = dense(grad_output, s.layout);
  const auto nothing = [&] { return empty_like(input, {0}, Layout::kNCHW); };
  std::tuple<Tensor, Tensor, Tensor> result{nothing(), nothing(), nothing()};
  if (output_mask[0]) std::get<0>(result) = grad_input(grad, weight, input, s);
  if (!output_mask[1] && !output_mask[2]) return result;

  PointwiseConv2dWeightGradientParams p{};
  static_cast<PointwiseConv2dShape&>(p) = s;
  const Tensor x = dense(input, s.layout);
  p.grad_output = grad.const_data_ptr();
  p.input = x.const_data_ptr();
  if (output_mask[1]) {
    Tensor grad_weight = torch::stable::empty_like(weight);  // with its strides
    p.grad_weight = grad_weight.mutable_data_ptr();
    p.weight_out_stride = grad_weight.stride(0), p.weight_in_stride = grad_weight.stride(1);
    std::get<1>(result) = grad_weight;
  }
  if (output_mask[2]) {
    Tensor grad_bias = empty_like(weight, {s.out_channels}, Layout::kNCHW);
    p.grad_bias = grad_bias.mutable_data_ptr();
    std::get<2>(result) = grad_bias;
  }
  if (s.batch > 0) {
    run_weight_gradient(p, x);
  } else {
    zero(std::get<1>(result)), zero(std::get<2>(result));
  }
  return result;
}

}  // namespace

}  // namespace fastconv::ops

FASTCONV_IMPL(pointwise_conv2d, m) {
  fastconv::ops::impl_with_out<&fastconv::ops::pointwise_conv2d>(m, "pointwise_conv2d");
  m.impl("pointwise_conv2d_backward", TORCH_BOX(&fastconv::ops::pointwise_conv2d_backward));
}
