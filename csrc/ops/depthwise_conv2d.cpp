// fastconv::depthwise_conv2d and its two gradients.
#include "../kernels/depthwise_conv2d.h"

#include <limits>
#include <tuple>

#include "../kernels/cpu/registry.h"
#include "../kernels/cuda/depthwise_conv2d.h"
#include "convolutions.h"
#include "gpu.h"
#include "kept_memory.h"
#include "scratch.h"

namespace fastconv::ops {

namespace {

using Ints = std::vector<int64_t>;

constexpr double kNanosecondsATap = 0.04;  // 25 FMAs a nanosecond a thread: cached, AVX-512

void check_parameter(const char* op, const char* name, const Ints& values, size_t count,
                     int64_t least, int64_t most) {
  bool fits = values.size() == count;
  for (int64_t value : values) fits &= value >= least && value <= most;
  if (fits) return;
  std::string text;
  for (int64_t value : values) text += (text.empty() ? "" : ", ") + std::to_string(value);
  fail(op, ": expected ", name, " of ", count, " integers from ", least, " to ", most, ", got (",
       text, ")");
}

// One side of the window: its outputs over `size` pixels, padding included, and a stride and a
// dilation that the kernels can multiply by sizes: the same ones, or as far as any index goes.
struct Side {
  int64_t outputs, stride, dilation;
};

Side side_of(const char* op, const char* name, int64_t size, int64_t kernel, int64_t stride,
             int64_t dilation) {
  int64_t reach = 0;
  const bool overflows = __builtin_mul_overflow(dilation, kernel - 1, &reach);
  FASTCONV_CHECK(!overflows && reach < size, op,
                 ": expected a kernel no larger than the padded input, got ", name, " ", dilation,
                 " * ", kernel - 1, " + 1 over ", size);
  return {(size - reach - 1) / stride + 1, std::min(stride, size), kernel == 1 ? 1 : dilation};
}

DepthwiseConv2dShape shape_of(const char* op, const Tensor& input, const Tensor& weight,
                              const Ints& stride, const Ints& padding, const Ints& dilation) {
  check_dim(op, "input", input, 4);
  check_like_input(op, "weight", weight, input);
  check_dim(op, "weight", weight, 4);
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  constexpr int64_t kMostPadding = std::numeric_limits<int32_t>::max();
  check_parameter(op, "stride", stride, 2, 1, kMost);
  check_parameter(op, "padding", padding, 4, 0, kMostPadding);
  check_parameter(op, "dilation", dilation, 2, 1, kMost);

  DepthwiseConv2dShape s{};
  s.dtype = dtype_of(input, op);
  s.layout = layout_of(input);
  s.has_vectors = has_vectors();
  s.batch = input.size(0), s.channels = input.size(1);
  s.height = input.size(2), s.width = input.size(3);
  s.kernel_h = weight.size(2), s.kernel_w = weight.size(3);
  const bool fits = s.channels > 0 && weight.size(0) >= s.channels &&
                    weight.size(0) % s.channels == 0 && weight.size(1) == 1 && s.taps() > 0;
  FASTCONV_CHECK(fits, op, ": expected weight of shape (", s.channels,
                 " * m, 1, kh, kw) for input ", to_string(input), ", got ", to_string(weight));
  s.multiplier = weight.size(0) / s.channels;
  s.pad_top = padding[0], s.pad_left = padding[1];
  const Side rows =
      side_of(op, "height", s.height + padding[0] + padding[2], s.kernel_h, stride[0], dilation[0]);
  const Side columns =
      side_of(op, "width", s.width + padding[1] + padding[3], s.kernel_w, stride[1], dilation[1]);
  s.out_height = rows.outputs, s.stride_h = rows.stride, s.dilation_h = rows.dilation;
  s.out_width = columns.outputs, s.stride_w = columns.stride, s.dilation_w = columns.dilation;
  return s;
}

Sizes out_sizes(const DepthwiseConv2dShape& s) {
  return {s.batch, s.out_channels(), s.out_height, s.out_width};
}

void check_grad_output(const char* op, const Tensor& grad_output, const Tensor& input,
                       const DepthwiseConv2dShape& s) {
  check_like_input(op, "grad_output", grad_output, input);
  const Sizes wanted = out_sizes(s);
  const bool fits = grad_output.dim() == 4 &&
                    std::equal(wanted.begin(), wanted.end(), grad_output.sizes().begin());
  FASTCONV_CHECK(fits, op, ": expected grad_output of the shape of the output, got ",
                 to_string(grad_output), " for input ", to_string(input));
}

bool is_packed(const Tensor& weight, const DepthwiseConv2dShape& s) {
  const bool taps_first = s.layout == Layout::kNHWC;
  const int64_t channel = taps_first ? 1 : s.taps(), tap = taps_first ? s.out_channels() : 1;
  return (weight.size(0) == 1 || weight.stride(0) == channel) &&
         (s.kernel_h == 1 || weight.stride(2) == s.kernel_w * tap) &&
         (s.kernel_w == 1 || weight.stride(3) == tap);
}

// The weights in the order the kernels read: the tensor's own memory where it has that order (see
// fastconv.ops.pack_depthwise_weight), else a copy. Each thread makes its own: one core would wait
// longer for lines that another has just written than packing takes.
class PackedWeight {
 public:
  PackedWeight(const Tensor& weight, const DepthwiseConv2dShape& s, bool flip, bool widen)
      : p_{s,
           weight.const_data_ptr(),
           weight.stride(0),
           weight.stride(2),
           weight.stride(3),
           flip,
           widen,
           nullptr} {
    if (flip || widen || !is_packed(weight, s)) {
      bytes_ = weight.numel() * (widen ? int64_t(sizeof(float)) : weight.element_size());
    }
  }

  int64_t bytes() const { return bytes_; }  // of the copy

  const void* get(void* copy) const {
    if (bytes_ == 0) return p_.weight;
    DepthwiseConv2dPackParams p = p_;
    p.packed = copy;
    depthwise_conv2d_kernels().pack_weight(p);
    return copy;
  }

 private:
  DepthwiseConv2dPackParams p_;
  int64_t bytes_ = 0;
};

// Nanoseconds a unit takes where `units` do all taps of all outputs.
double unit_cost(const DepthwiseConv2dShape& s, int64_t units) {
  const double outputs = double(s.batch) * s.out_channels() * s.out_height * s.out_width;
  return outputs * s.taps() * kNanosecondsATap / std::max<int64_t>(units, 1);
}

// A kernel on all of its units; each thread has scratch of so many bytes and the packed weights.
template <class Params, class Kernel>
void on_threads(Params p, const PackedWeight& weight, Kernel kernel, int64_t units,
                int64_t scratch_bytes) {
  const int64_t own = div_up(scratch_bytes, int64_t{64}) * 64;
  parallel(units, unit_cost(p.shape, units), [&](int64_t begin, int64_t end) {
    char* memory = static_cast<char*>(scratch(Purpose::kOwn, own + weight.bytes()));
    Params q = p;
    q.weight = weight.get(memory + own);
    kernel(q, memory, begin, end);
  });
}

// What the sums of p go to: the gradients of weight, in its strides, and of bias.
std::tuple<Tensor, Tensor> weight_gradients(DepthwiseConv2dBackwardWeightParams& p,
                                            const Tensor& grad_output, const Tensor& input,
                                            const Tensor& weight) {
  Tensor of_weight = torch::stable::empty_like(weight);
  Tensor of_bias = empty_like(input, {p.shape.out_channels()}, Layout::kNCHW);
  p.grad_output = grad_output.const_data_ptr(), p.input = input.const_data_ptr();
  p.grad_weight = of_weight.mutable_data_ptr(), p.grad_bias = of_bias.mutable_data_ptr();
  p.grad_stride_channel = of_weight.stride(0);
  p.grad_stride_h = of_weight.stride(2), p.grad_stride_w = of_weight.stride(3);
  return {of_weight, of_bias};
}

cuda::DepthwiseWeight gpu_weight(const Tensor& weight) {
  return {weight.const_data_ptr(), weight.stride(0), weight.stride(2), weight.stride(3)};
}

cuda::DepthwiseParams gpu_params(const DepthwiseConv2dShape& s, bool transposed,
                                 const Tensor& weight) {
  cuda::DepthwiseParams p{};
  p.shape = s;
  p.transposed = transposed;
  p.weight = gpu_weight(weight);
  cuda::complete(p);
  return p;
}

void forward_on_gpu(const DepthwiseConv2dParams& p, const Tensor& weight, const Tensor& input) {
  cuda::DepthwiseParams gpu = gpu_params(p.shape, false, weight);
  gpu.source = p.input, gpu.bias = p.bias, gpu.target = p.output;
  gpu.activation = p.activation;
  run_on_gpu(gpu, input);
}

void backward_input_on_gpu(const DepthwiseConv2dBackwardInputParams& p, const Tensor& weight,
                           const Tensor& input) {
  cuda::DepthwiseParams gpu = gpu_params(p.shape, true, weight);
  gpu.source = p.grad_output, gpu.target = p.grad_input;
  run_on_gpu(gpu, input);
}

// Runs what gives the partial sums of p, whose `sums` is part of it, then adds them up.
template <class Params>
void sum_on_gpu(const DepthwiseConv2dBackwardWeightParams& to, Params& p,
                cuda::DepthwiseWeightParams& sums, const Tensor& input) {
  const DepthwiseConv2dShape& s = to.shape;
  const int64_t element = s.dtype == DType::kFloat64 ? 8 : 4;
  const Tensor partial =
      empty_bytes(input, sums.slabs * (s.taps() + 1) * s.out_channels() * element);
  sums.partial = partial.mutable_data_ptr();
  run_on_gpu(p, input);
  run_on_gpu(cuda::DepthwiseWeightSumParams{s, sums.partial, sums.slabs, to.grad_weight,
                                            to.grad_stride_channel, to.grad_stride_h,
                                            to.grad_stride_w, to.grad_bias},
             input);
}

cuda::DepthwiseWeightParams gpu_sums(const DepthwiseConv2dBackwardWeightParams& p) {
  cuda::DepthwiseWeightParams sums{};
  sums.shape = p.shape;
  sums.grad_output = p.grad_output, sums.input = p.input;
  return sums;
}

void backward_weight_on_gpu(const DepthwiseConv2dBackwardWeightParams& p, const Tensor& input) {
  cuda::DepthwiseWeightParams sums = gpu_sums(p);
  cuda::complete(sums, gpu_of(input));
  sum_on_gpu(p, sums, sums, input);
}

// Both gradients: in one pass where a kernel does that.
void backward_on_gpu(const DepthwiseConv2dBackwardInputParams& of_input,
                     const DepthwiseConv2dBackwardWeightParams& of_weight, const Tensor& weight,
                     const Tensor& input) {
  cuda::DepthwiseGradientsParams p{};
  p.sums = gpu_sums(of_weight);
  p.weight = gpu_weight(weight);
  p.grad_input = of_input.grad_input;
  cuda::complete(p, gpu_of(input));
  if (cuda::takes_gradients(p, gpu_of(input))) return sum_on_gpu(of_weight, p, p.sums, input);
  backward_input_on_gpu(of_input, weight, input);
  backward_weight_on_gpu(of_weight, input);
}

}  // namespace

Tensor depthwise_conv2d(Out out, const Tensor& input, const Tensor& weight,
                        const std::optional<Tensor>& bias, const Ints& stride, const Ints& padding,
                        const Ints& dilation, const std::optional<Text>& activation) {
  const char* op = "depthwise_conv2d";
  DepthwiseConv2dParams p{};
  p.shape = shape_of(op, input, weight, stride, padding, dilation);
  p.activation = parse_activation(activation);
  std::optional<Tensor> b;
  if (bias) {
    check_like_input(op, "bias", *bias, input);
    FASTCONV_CHECK(bias->dim() == 1 && bias->size(0) == weight.size(0), op,
                   ": expected bias of shape (", weight.size(0), "), got ", to_string(*bias));
    b = dense(*bias, Layout::kNCHW);
    p.bias = b->const_data_ptr();
  }

  const Tensor x = dense(input, p.shape.layout);
  Tensor output = output_of(op, out, input, out_sizes(p.shape), p.shape.layout);
  if (output.numel() == 0) return output;
  p.input = x.const_data_ptr();
  p.output = output.mutable_data_ptr();
  if (on_gpu(input)) {
    forward_on_gpu(p, weight, input);
    return output;
  }
  count(depthwise_conv2d_variant(p.shape));
  const PackedWeight packed(weight, p.shape, false, depthwise_conv2d_widens_weight(p.shape));
  on_threads(p, packed, depthwise_conv2d_kernels().forward, depthwise_conv2d_units(p.shape),
             depthwise_conv2d_scratch(p.shape));
  return output;
}

Tensor depthwise_conv2d_backward_input(const Tensor& grad_output, const Tensor& input,
                                       const Tensor& weight, const Ints& stride,
                                       const Ints& padding, const Ints& dilation) {
  const char* op = "depthwise_conv2d_backward_input";
  DepthwiseConv2dBackwardInputParams p{};
  p.shape = shape_of(op, input, weight, stride, padding, dilation);
  check_grad_output(op, grad_output, input, p.shape);

  const Tensor g = dense(grad_output, p.shape.layout);
  const Sizes sizes(input.sizes().begin(), input.sizes().end());
  const KeepsMemory keeps;
  Tensor grad_input = empty_like(input, sizes, p.shape.layout);
  if (grad_input.numel() == 0) return grad_input;
  p.grad_output = g.const_data_ptr();
  p.grad_input = grad_input.mutable_data_ptr();
  if (on_gpu(input)) {
    backward_input_on_gpu(p, weight, input);
    return grad_input;
  }
  count(depthwise_conv2d_backward_input_variant(p.shape));
  const bool forwards = depthwise_conv2d_backward_is_forward(p.shape);
  const PackedWeight packed(weight, p.shape, forwards,
                            forwards && depthwise_conv2d_widens_weight(p.shape));
  on_threads(p, packed, depthwise_conv2d_kernels().backward_input,
             depthwise_conv2d_backward_input_units(p.shape),
             depthwise_conv2d_backward_input_scratch(p.shape));
  return grad_input;
}

std::tuple<Tensor, Tensor> depthwise_conv2d_backward_weight(const Tensor& grad_output,
                                                            const Tensor& input,
                                                            const Tensor& weight,
                                                            const Ints& stride, const Ints& padding,
                                                            const Ints& dilation) {
  const char* op = "depthwise_conv2d_backward_weight";
  DepthwiseConv2dBackwardWeightParams p{};
  const DepthwiseConv2dShape& s = p.shape = shape_of(op, input, weight, stride, padding, dilation);
  check_grad_output(op, grad_output, input, s);

  const Tensor g = dense(grad_output, s.layout), x = dense(input, s.layout);
  const std::tuple<Tensor, Tensor> gradients = weight_gradients(p, g, x, weight);
  if (s.batch == 0) {
    zero(std::get<0>(gradients)), zero(std::get<1>(gradients));
    return gradients;
  }
  if (on_gpu(input)) {
    backward_weight_on_gpu(p, input);
    return gradients;
  }
  const int64_t element = s.dtype == DType::kFloat64 ? 8 : 4;
  const int64_t sums = depthwise_conv2d_chunks(s) * (s.taps() + 1) * s.out_channels();
  p.partial = scratch(Purpose::kShared, sums * element);

  count(depthwise_conv2d_backward_weight_variant(s));
  const int64_t units = depthwise_conv2d_backward_weight_units(s);
  const DepthwiseConv2dKernels& kernels = depthwise_conv2d_kernels();
  const int64_t bytes = depthwise_conv2d_scratch(s);
  parallel(units, unit_cost(s, units), [&](int64_t begin, int64_t end) {
    kernels.backward_weight(p, scratch(Purpose::kOwn, bytes), begin, end);
  });
  const int64_t sum_units = depthwise_conv2d_sum_units(s);
  parallel(sum_units, double(sums) / sum_units * kNanosecondsATap,
           [&](int64_t begin, int64_t end) { kernels.sum_partials(p, begin, end); });
  return gradients;
}

// The gradients of input, weight and bias: where a kernel does it, in one pass over both tensors.
std::tuple<Tensor, Tensor, Tensor> depthwise_conv2d_backward(
    const Tensor& grad_output, const Tensor& input, const Tensor& weight, const Ints& stride,
    const Ints& padding, const Ints& dilation) {
  const char* op = "depthwise_conv2d_backward";
  DepthwiseConv2dBackwardWeightParams p{};
  p.shape = shape_of(op, input, weight, stride, padding, dilation);
  check_grad_output(op, grad_output, input, p.shape);

  const Tensor g = dense(grad_output, p.shape.layout), x = dense(input, p.shape.layout);
  if (!on_gpu(input) || input.numel() == 0) {
    auto [of_weight, of_bias] =
        depthwise_conv2d_backward_weight(g, x, weight, stride, padding, dilation);
    return {depthwise_conv2d_backward_input(g, x, weight, stride, padding, dilation), of_weight,
            of_bias};
  }
  auto [of_weight, of_bias] = weight_gradients(p, g, x, weight);
  const Tensor of_input =
      empty_like(x, {input.sizes().begin(), input.sizes().end()}, p.shape.layout);
  backward_on_gpu({p.shape, p.grad_output, nullptr, of_input.mutable_data_ptr()}, p, weight, x);
  return {of_input, of_weight, of_bias};
}

}  // namespace fastconv::ops

FASTCONV_IMPL(depthwise_conv2d, m) {
  fastconv::ops::impl_with_out<&fastconv::ops::depthwise_conv2d>(m, "depthwise_conv2d");
  m.impl("depthwise_conv2d_backward", TORCH_BOX(&fastconv::ops::depthwise_conv2d_backward));
  fastconv::ops::impl_with_direct<&fastconv::ops::depthwise_conv2d_backward_input>(
      m, "depthwise_conv2d_backward_input");
  m.impl("depthwise_conv2d_backward_weight",
         TORCH_BOX(&fastconv::ops::depthwise_conv2d_backward_weight));
}
