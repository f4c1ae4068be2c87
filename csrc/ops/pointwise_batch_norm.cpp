// The backward pass of a pointwise convolution with a batch norm behind it, on channels_last CPU
// tensors. Both need the gradient between them, which never passes memory: a block of it is
// computed, multiplied by the weights, and by the input for their gradient, while in a core's
// cache. MobileNetV2's training step at batch 16: 1.07 times as fast in float32, 1.035 in bfloat16,
// as with two passes, in turn (one thread, Zen 5).
#include <tuple>

#include "../kernels/cpu/registry.h"
#include "../kernels/pointwise_conv2d.h"
#include "batch_norm.h"
#include "convolutions.h"
#include "kept_memory.h"
#include "scratch.h"

namespace fastconv::ops {

namespace {

constexpr const char* kOp = "pointwise_batch_norm_backward";
constexpr double kFlopsANanosecond = 100;
constexpr int64_t kBlockBytes = 256 << 10;  // of the gradient between, in float32: half an L2
constexpr int64_t kLeastPixels = 64, kMostPixels = 256;  // of a block; most: kBlockPixels
constexpr int64_t kSplits = 16;  // of the pixels, each with a sum of its own, for any threads

int64_t aligned(int64_t bytes) {
  return (bytes + 63) / 64 * 64;
}

// Blocks of a split, and pixels of a block.
struct Blocks {
  int64_t pixels, blocks, splits;

  Blocks(int64_t pixels, int64_t channels) : pixels(pixels) {
    const int64_t fit = kBlockBytes / (4 * channels);
    const int64_t block = std::min(std::max(fit, kLeastPixels), kMostPixels);
    blocks = (pixels + block - 1) / block;
    splits = std::min(blocks, kSplits);
  }
};

// A block of pixels of both passes, as images of one row.
class Block {
 public:
  Block(const BatchNormParams& norm, const PointwiseConv2dParams& input_gradient,
        const PointwiseConv2dWeightGradientParams& weight_gradient, int64_t element)
      : norm_(norm),
        input_(input_gradient),
        weight_(weight_gradient),
        element_(element),
        forward_(pointwise_conv2d_kernels_of(input_)),
        backward_(pointwise_conv2d_backward_kernels_of(weight_)) {}

  int64_t scratch_bytes(int64_t pixels) {
    take(pixels);
    return aligned(pixels * input_.in_channels * element_) +
           std::max(forward_.plan(input_).scratch_bytes, backward_.plan(weight_).scratch_bytes);
  }

  void run(int64_t first, int64_t pixels, const void* prepared, void* partials, char* scratch,
           bool adds) {
    take(pixels);
    const int64_t out = input_.in_channels, in = input_.out_channels;
    BatchNormParams n = norm_;
    n.batch = 1, n.pixels = pixels;
    n.input = at(norm_.input, first * out);
    n.grad_output = at(norm_.grad_output, first * out);
    n.output = scratch;
    batch_norm_backward_kernels().apply(n, 0, BatchNormUnits(n).units);
    char* own = scratch + aligned(pixels * out * element_);
    PointwiseConv2dParams x = input_;
    x.input = scratch;
    x.output = const_cast<void*>(at(input_.output, first * in));
    forward_.run(x, prepared, own, 0, forward_.plan(x).units);
    PointwiseConv2dWeightGradientParams w = weight_;
    w.grad_output = scratch;
    w.input = at(weight_.input, first * in);
    w.adds = adds;
    backward_.run(w, partials, own, 0, backward_.plan(w).units);
  }

 private:
  void take(int64_t pixels) {
    input_.width = input_.in_width = weight_.width = weight_.in_width = pixels;
  }

  const void* at(const void* memory, int64_t elements) const {
    return static_cast<const char*>(memory) + elements * element_;
  }

  BatchNormParams norm_;
  PointwiseConv2dParams input_;
  PointwiseConv2dWeightGradientParams weight_;
  int64_t element_;
  const PointwiseConv2dKernels& forward_;
  const PointwiseConv2dBackwardKernels& backward_;
};

// Gradients of input, conv_weight, weight and bias; conv_output is what the norm took.
std::tuple<Tensor, Tensor, Tensor, Tensor> pointwise_batch_norm_backward(
    const Tensor& grad_output, const Tensor& conv_output, const Tensor& input,
    const Tensor& conv_weight, const std::optional<Tensor>& weight,
    const std::optional<Tensor>& bias, const Tensor& mean, const Tensor& var, double eps,
    const std::optional<Text>& activation) {
  const KeepsMemory keeps;
  check_dim(kOp, "input", input, 4);
  check_dim(kOp, "conv_output", conv_output, 4);
  check_dim(kOp, "conv_weight", conv_weight, 4);
  for (const Tensor* t : {&grad_output, &conv_output, &conv_weight}) {
    check_like_input(kOp, "conv_output, its gradient and conv_weight", *t, input);
  }
  const int64_t batch = input.size(0), in = input.size(1), out = conv_weight.size(0);
  const int64_t height = input.size(2), width = input.size(3);
  for (const Tensor* t : {&grad_output, &conv_output}) {
    FASTCONV_CHECK(t->dim() == 4 && t->size(0) == batch && t->size(1) == out &&
                       t->size(2) == height && t->size(3) == width,
                   kOp, ": expected conv_output and its gradient of shape ",
                   to_string(Sizes{batch, out, height, width}), ", got ", to_string(*t));
  }
  FASTCONV_CHECK(conv_weight.size(1) == in && conv_weight.size(2) == 1 && conv_weight.size(3) == 1,
                 kOp, ": expected conv_weight of shape (out_channels, ", in, ", 1, 1), got ",
                 to_string(conv_weight));
  FASTCONV_CHECK(input.numel() > 0 && out > 0, kOp, ": expected values, got input ",
                 to_string(input));

  BatchNormParams n = batch_norm_params(kOp, conv_output, eps, activation);
  n.layout = Layout::kNHWC;
  n.training = true;
  const auto w = of_channels(kOp, "weight", weight, conv_output);
  const auto b = of_channels(kOp, "bias", bias, conv_output);
  const auto m = of_channels(kOp, "mean", mean, conv_output);
  const auto v = of_channels(kOp, "var", var, conv_output);
  const Tensor x = dense(input, Layout::kNHWC), y = dense(conv_output, Layout::kNHWC);
  const Tensor g = dense(grad_output, Layout::kNHWC);
  Tensor grad_input = empty_like(x, {batch, in, height, width}, Layout::kNHWC);
  Tensor grad_conv_weight = torch::stable::empty_like(conv_weight);
  Tensor grad_weight = new_of_channels(y, true), grad_bias = new_of_channels(y, true);
  n.input = y.const_data_ptr();
  n.grad_output = g.const_data_ptr();
  n.weight = w ? w->const_data_ptr() : nullptr;
  n.bias = b ? b->const_data_ptr() : nullptr;
  n.mean = const_cast<void*>(m->const_data_ptr());
  n.var = const_cast<void*>(v->const_data_ptr());
  n.grad_weight = grad_weight.mutable_data_ptr();
  n.grad_bias = grad_bias.mutable_data_ptr();

  PointwiseConv2dShape s{};
  s.dtype = n.dtype, s.layout = Layout::kNHWC;
  s.batch = s.height = s.in_height = s.stride_h = s.stride_w = 1;
  PointwiseConv2dWeightGradientParams wg{};
  static_cast<PointwiseConv2dShape&>(wg) = s;
  wg.in_channels = in, wg.out_channels = out;
  wg.input = x.const_data_ptr();
  wg.grad_weight = grad_conv_weight.mutable_data_ptr();
  wg.weight_out_stride = grad_conv_weight.stride(0);
  wg.weight_in_stride = grad_conv_weight.stride(1);
  PointwiseConv2dParams xg{};
  static_cast<PointwiseConv2dShape&>(xg) = s;
  xg.in_channels = out, xg.out_channels = in;
  xg.width = xg.in_width = kMostPixels;
  xg.weight = conv_weight.const_data_ptr();
  xg.weight_out_stride = conv_weight.stride(1), xg.weight_in_stride = conv_weight.stride(0);
  xg.output = grad_input.mutable_data_ptr();

  const Blocks blocks(batch * height * width, out);
  wg.splits = blocks.splits;
  const PointwiseConv2dKernels& forward = pointwise_conv2d_kernels_of(xg);
  const PointwiseConv2dPlan plan = forward.plan(xg);
  const int64_t element = x.element_size(), sum = n.dtype == DType::kFloat64 ? 8 : 4;
  const int64_t sums = aligned(batch_norm_partials(n) * sizeof(double));
  const int64_t coefficients = aligned(batch_norm_coefficients(n) * sizeof(double));
  const int64_t product = out * in * sum;
  char* shared = static_cast<char*>(
      scratch(Purpose::kShared,
              sums + coefficients + 64 + aligned(plan.prepared_bytes) + blocks.splits * product));
  n.partials = reinterpret_cast<double*>(shared);
  n.coefficients = shared + sums;
  char* prepared = shared + sums + coefficients;
  char* partials = prepared + aligned(plan.prepared_bytes);

  count(batch_norm_backward_variant(n));
  count(pointwise_conv2d_variant(xg));
  count(Variant::pointwise_conv2d_weight_gradient_nhwc);
  const BatchNormKernels& norm = batch_norm_backward_kernels();
  batch_norm_kernels().fold(n);
  over_units(n, norm.sums, 2);
  norm.finish(n);
  norm.fold(n);
  parallel(plan.prepare_units, double(in * out * element),
           [&](int64_t begin, int64_t end) { forward.prepare(xg, prepared, begin, end); });
  const auto part = [](int64_t size, int64_t parts, int64_t i) { return i * size / parts; };
  const double flops = 4.0 * double(blocks.pixels) * double(in * out);
  parallel(blocks.splits, flops / kFlopsANanosecond / double(blocks.splits),
           [&](int64_t begin, int64_t end) {
             Block block(n, xg, wg, element);
             void* own = scratch(Purpose::kOwn, block.scratch_bytes(kMostPixels));
             for (int64_t split = begin; split < end; ++split) {
               const int64_t first = part(blocks.blocks, blocks.splits, split);
               const int64_t last = part(blocks.blocks, blocks.splits, split + 1);
               for (int64_t i = first; i < last; ++i) {
                 const int64_t pixel = part(blocks.pixels, blocks.blocks, i);
                 const int64_t count = part(blocks.pixels, blocks.blocks, i + 1) - pixel;
                 block.run(pixel, count, prepared, partials + split * product,
                           static_cast<char*>(own), i > first);
               }
             }
           });
  const auto reduce = pointwise_conv2d_backward_kernels().reduce;
  parallel(out, double(blocks.splits * in * sum) * 0.05,
           [&](int64_t begin, int64_t end) { reduce(wg, partials, begin, end); });
  return {grad_input, grad_conv_weight, grad_weight, grad_bias};
}

}  // namespace

}  // namespace fastconv::ops

STABLE_TORCH_LIBRARY_IMPL(fastconv, CPU, m) {
  m.impl("pointwise_batch_norm_backward", TORCH_BOX(&fastconv::ops::pointwise_batch_norm_backward));
}
