// fastconv::dense_conv2d on CPU tensors.
#include "../kernels/dense_conv2d.h"

#include <limits>

#include "../kernels/cpu/registry.h"
#include "queued.h"
#include "scratch.h"

namespace fastconv::ops {

namespace {

constexpr const char* kOp = "dense_conv2d";
constexpr double kFlopsANanosecond = 100;
constexpr double kNanosecondsAByte = 0.05;
constexpr int64_t kMostParameter = std::numeric_limits<int32_t>::max();

int64_t output_size(int64_t size, int64_t before, int64_t after, int64_t reach, int64_t stride) {
  const int64_t padded = size + before + after;
  FASTCONV_CHECK(padded >= reach, kOp, ": expected a kernel no larger than the padded input, got ",
                 reach, " over ", padded);
  return (padded - reach) / stride + 1;
}

// Sizes of a weight for Winograd's products, in panels or at their points; returns the panels.
int64_t read_winograd(DenseConv2dParams& p, const Tensor& input, const Tensor& weight) {
  p.is_winograd = p.weight_is_packed = true;
  p.kernel_h = p.kernel_w = 3;
  p.panel = weight.size(5);
  p.weight_is_at_points = weight.size(1) == 6 && weight.size(2) == 6;
  const bool is_in_panels = weight.size(2) == 3 && weight.size(3) == 3;
  FASTCONV_CHECK(weight.size(0) == 1 && (p.weight_is_at_points || is_in_panels) &&
                     weight.size(4) == p.channels && p.panel <= kDensePanel && weight.numel() > 0 &&
                     weight.is_contiguous(),
                 kOp, ": expected a weight of shape (1, 6, 6, panels, ", p.channels, ", at most ",
                 kDensePanel, ") or (1, panels, 3, 3, ...) for input ", to_string(input), ", got ",
                 to_string(weight));
  FASTCONV_CHECK(p.dtype == DType::kFloat32, kOp,
                 ": expected float32 for Winograd's products, got ", to_string(weight));
  return weight.size(p.weight_is_at_points ? 3 : 1);
}

// Sizes and strides of the weight: as torch has it, or in panels, when only the bias tells how many
// of the last panel's columns count.
void read_weight(DenseConv2dParams& p, const Tensor& input, const Tensor& weight,
                 const std::optional<Tensor>& bias) {
  check_like_input(kOp, "weight", weight, input);
  p.weight_is_packed = weight.dim() == 5 || weight.dim() == 6;
  if (!p.weight_is_packed) {
    check_dim(kOp, "weight", weight, 4);
    FASTCONV_CHECK(weight.size(1) == p.channels && weight.numel() > 0, kOp,
                   ": expected weight of shape (out_channels, ", p.channels, ", kh, kw) for input ",
                   to_string(input), ", got ", to_string(weight));
    p.out_channels = weight.size(0), p.kernel_h = weight.size(2), p.kernel_w = weight.size(3);
    p.weight_out_stride = weight.stride(0), p.weight_in_stride = weight.stride(1);
    p.weight_row_stride = weight.stride(2), p.weight_column_stride = weight.stride(3);
    p.panel = std::min(kDensePanel, p.out_channels);
    return;
  }
  int64_t panels = 0;
  if (weight.dim() == 6) {
    panels = read_winograd(p, input, weight);
  } else {
    p.panel = weight.size(4);
    FASTCONV_CHECK(weight.size(3) == p.channels && p.panel <= kDensePanel && weight.numel() > 0 &&
                       weight.is_contiguous(),
                   kOp, ": expected a packed weight of shape (panels, kh, kw, ", p.channels,
                   ", at most ", kDensePanel, ") for input ", to_string(input), ", got ",
                   to_string(weight));
    p.kernel_h = weight.size(1), p.kernel_w = weight.size(2);
    panels = weight.size(0);
  }
  p.out_channels = bias ? bias->numel() : panels * p.panel;
  FASTCONV_CHECK(dense_panels(p) == panels, kOp, ": expected a bias for weight ", to_string(weight),
                 ", got ", p.out_channels, " values");
}

DenseConv2dParams params_of(const Tensor& input, const Tensor& weight,
                            const std::optional<Tensor>& bias, const std::vector<int64_t>& stride,
                            const std::vector<int64_t>& padding,
                            const std::vector<int64_t>& dilation) {
  check_dim(kOp, "input", input, 4);
  DenseConv2dParams p{};
  p.dtype = dtype_of(input, kOp);
  p.batch = input.size(0), p.channels = input.size(1);
  p.height = input.size(2), p.width = input.size(3);
  read_weight(p, input, weight, bias);
  const auto in_range = [](const std::vector<int64_t>& values, size_t count, int64_t least) {
    bool fits = values.size() == count;
    for (int64_t value : values) fits &= value >= least && value <= kMostParameter;
    return fits;
  };
  FASTCONV_CHECK(in_range(stride, 2, 1) && in_range(padding, 4, 0) && in_range(dilation, 2, 1), kOp,
                 ": expected two strides and dilations from 1 and four paddings from 0, got ",
                 to_string(stride), ", ", to_string(dilation), " and ", to_string(padding));
  p.stride_h = stride[0], p.stride_w = stride[1];
  p.dilation_h = dilation[0], p.dilation_w = dilation[1];
  p.pad_top = padding[0], p.pad_left = padding[1];
  FASTCONV_CHECK(!p.is_winograd || (stride[0] * stride[1] == 1 && dilation[0] * dilation[1] == 1),
                 kOp, ": expected stride and dilation 1 for Winograd's products, got ",
                 to_string(stride), " and ", to_string(dilation));
  const int64_t reach_h = (p.kernel_h - 1) * p.dilation_h + 1;
  const int64_t reach_w = (p.kernel_w - 1) * p.dilation_w + 1;
  p.out_height = output_size(p.height, padding[0], padding[2], reach_h, p.stride_h);
  p.out_width = output_size(p.width, padding[1], padding[3], reach_w, p.stride_w);
  return p;
}

class DenseWork final : public Work {
 public:
  explicit DenseWork(const DenseConv2dParams& p)
      : Work(dense_conv2d_variant(p)),
        kernels_(p.is_winograd ? dense_conv2d_winograd_kernels() : dense_conv2d_kernels()),
        p_(p),
        plan_(kernels_.plan(p)) {
    const double weights = double(p.out_channels) * p.channels * p.kernel_h * p.kernel_w;
    units[0] = plan_.prepare_units, units[1] = plan_.units;
    cost[0] = units[0] > 0 ? weights * 8 * kNanosecondsAByte : 0;
    cost[1] = 2.0 * p.batch * p.out_height * p.out_width * weights / kFlopsANanosecond;
    if (p.is_winograd) cost[1] /= 2;
    shared_bytes = plan_.prepared_bytes;
  }

  void run(int stage, char* shared, int64_t begin, int64_t end) override {
    if (stage == 0) return kernels_.prepare(p_, shared, begin, end);
    kernels_.run(p_, shared, scratch(Purpose::kOwn, plan_.scratch_bytes), begin, end);
  }

 private:
  const DenseConv2dKernels& kernels_;
  DenseConv2dParams p_;
  DenseConv2dPlan plan_;
};

}  // namespace

Tensor dense_conv2d(Queue& queue, Out out, const Tensor& input, const Tensor& weight,
                    const std::optional<Tensor>& bias, const std::optional<Tensor>& residual,
                    const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                    const std::vector<int64_t>& dilation, const std::optional<Text>& activation) {
  DenseConv2dParams p = params_of(input, weight, bias, stride, padding, dilation);
  p.activation = parse_activation(activation);
  const Sizes sizes = {p.batch, p.out_channels, p.out_height, p.out_width};
  if (bias) {
    check_like_input_or_wide(kOp, "bias", *bias, input);
    FASTCONV_CHECK(bias->dim() == 1 && bias->size(0) == p.out_channels, kOp,
                   ": expected bias of shape (", p.out_channels, "), got ", to_string(*bias));
  }
  if (residual) {
    check_like_input(kOp, "residual", *residual, input);
    FASTCONV_CHECK(
        residual->dim() == 4 && std::equal(sizes.begin(), sizes.end(), residual->sizes().begin()),
        kOp, ": expected residual of shape ", to_string(sizes), ", got ", to_string(*residual));
    queue.fill(*residual, Layout::kNHWC);
  }
  queue.fill(input, Layout::kNHWC);
  Copies copies;
  p.input = copies.read(input, Layout::kNHWC);
  p.weight = weight.const_data_ptr();
  p.bias = copies.read_narrowed(bias, input);
  p.residual = copies.read(residual, Layout::kNHWC);
  Tensor output = output_of(kOp, out, input, sizes, Layout::kNHWC);
  if (p.batch == 0) return output;
  p.output = output.mutable_data_ptr();
  auto work = std::make_shared<DenseWork>(p);
  work->copies = std::move(copies);
  queue.add(std::move(work));
  return output;
}

}  // namespace fastconv::ops

STABLE_TORCH_LIBRARY_IMPL(fastconv, CPU, m) {
  fastconv::ops::impl_with_out<&fastconv::ops::dense_conv2d>(m, "dense_conv2d");
}
