// fastconv::stem_conv2d on CPU tensors.
#include "../kernels/stem_conv2d.h"

#include <limits>

#include "../kernels/cpu/registry.h"
#include "queued.h"
#include "scratch.h"

namespace fastconv::ops {

namespace {

constexpr const char* kOp = "stem_conv2d";
constexpr double kFlopsANanosecond = 100;
constexpr int64_t kMostParameter = std::numeric_limits<int32_t>::max();

int64_t output_size(int64_t size, int64_t before, int64_t after, int64_t kernel, int64_t stride) {
  const int64_t padded = size + before + after;
  FASTCONV_CHECK(padded >= kernel, kOp, ": expected a kernel no larger than the padded input, got ",
                 kernel, " over ", padded);
  return (padded - kernel) / stride + 1;
}

StemConv2dParams params_of(const Tensor& input, const Tensor& weight,
                           const std::vector<int64_t>& stride,
                           const std::vector<int64_t>& padding) {
  check_dim(kOp, "input", input, 4);
  check_dim(kOp, "weight", weight, 4);
  check_like_input(kOp, "weight", weight, input);
  StemConv2dParams p{};
  p.dtype = dtype_of(input, kOp);
  p.layout = layout_of(input);
  p.batch = input.size(0), p.channels = input.size(1);
  p.height = input.size(2), p.width = input.size(3);
  p.out_channels = weight.size(0), p.kernel_h = weight.size(2), p.kernel_w = weight.size(3);
  FASTCONV_CHECK(weight.size(1) == p.channels && weight.numel() > 0, kOp,
                 ": expected weight of shape (out_channels, ", p.channels, ", kh, kw) for input ",
                 to_string(input), ", got ", to_string(weight));
  const auto in_range = [](const std::vector<int64_t>& values, size_t count, int64_t least) {
    bool fits = values.size() == count;
    for (int64_t value : values) fits &= value >= least && value <= kMostParameter;
    return fits;
  };
  FASTCONV_CHECK(in_range(stride, 2, 1) && in_range(padding, 4, 0), kOp,
                 ": expected two strides from 1 and four paddings from 0, got ", to_string(stride),
                 " and ", to_string(padding));
  p.stride_h = stride[0], p.stride_w = stride[1];
  p.pad_top = padding[0], p.pad_left = padding[1];
  p.out_height = output_size(p.height, padding[0], padding[2], p.kernel_h, p.stride_h);
  p.out_width = output_size(p.width, padding[1], padding[3], p.kernel_w, p.stride_w);
  p.weight_out_stride = weight.stride(0), p.weight_in_stride = weight.stride(1);
  p.weight_row_stride = weight.stride(2), p.weight_column_stride = weight.stride(3);
  return p;
}

class StemWork final : public Work {
 public:
  explicit StemWork(const StemConv2dParams& p)
      : Work(stem_conv2d_variant(p)), p_(p), plan_(kernels_.plan(p)) {
    const double taps = double(p.channels) * p.kernel_h * p.kernel_w;
    const double outputs = double(p.batch) * p.out_channels * p.out_height * p.out_width;
    units[0] = plan_.prepared_bytes > 0 ? 1 : 0, units[1] = plan_.units;
    cost[1] = 2 * outputs * taps / kFlopsANanosecond;
    shared_bytes = plan_.prepared_bytes;
    const int64_t bytes = size_of(p.dtype);
    rows.images = p.batch;
    rows.input = p.input, rows.in_image = p.channels * p.height * p.width * bytes;
    rows.output = p.output, rows.row = p.out_width * p.out_channels * bytes;
    rows.in_height = p.height, rows.height = p.out_height;
    rows.kernel = p.kernel_h, rows.stride = p.stride_h, rows.pad_top = p.pad_top;
    rows.unit = 1;
  }

  void run(int stage, char* shared, int64_t begin, int64_t end) override {
    if (stage == 0) return kernels_.prepare(p_, shared);
    kernels_.run(p_, shared, scratch(Purpose::kOwn, plan_.scratch_bytes), begin, end);
  }

  void run_rows(const void* input, void* output, int64_t begin, int64_t end) override {
    StemConv2dParams p = p_;
    p.batch = 1, p.input = input, p.output = output;
    // What is prepared is a few KiB: made anew, rather than by a stage before the walk.
    const int64_t prepared = (plan_.prepared_bytes + 63) / 64 * 64;
    auto* own = static_cast<char*>(scratch(Purpose::kOwn, prepared + plan_.scratch_bytes));
    if (prepared > 0) kernels_.prepare(p, own);
    kernels_.run(p, own, own + prepared, begin, end);
  }

 private:
  const StemConv2dKernels& kernels_ = stem_conv2d_kernels();
  StemConv2dParams p_;
  StemConv2dPlan plan_;
};

}  // namespace

Tensor stem_conv2d(Queue& queue, Out out, const Tensor& input, const Tensor& weight,
                   const std::optional<Tensor>& bias, const std::vector<int64_t>& stride,
                   const std::vector<int64_t>& padding, const std::optional<Text>& activation) {
  StemConv2dParams p = params_of(input, weight, stride, padding);
  p.activation = parse_activation(activation);
  if (bias) {
    check_like_input_or_wide(kOp, "bias", *bias, input);
    FASTCONV_CHECK(bias->dim() == 1 && bias->size(0) == p.out_channels, kOp,
                   ": expected bias of shape (", p.out_channels, "), got ", to_string(*bias));
  }
  queue.fill(input, p.layout);
  Copies copies;
  p.input = copies.read(input, p.layout);
  p.weight = weight.const_data_ptr();
  p.bias = copies.read(bias);
  p.bias_is_float32 = bias && is_wide(*bias, input);
  Tensor output = output_of(kOp, out, input, {p.batch, p.out_channels, p.out_height, p.out_width},
                            Layout::kNHWC);
  if (p.batch == 0) return output;
  p.output = output.mutable_data_ptr();
  auto work = std::make_shared<StemWork>(p);
  work->copies = std::move(copies);
  queue.add(std::move(work));
  return output;
}

}  // namespace fastconv::ops

STABLE_TORCH_LIBRARY_IMPL(fastconv, CPU, m) {
  fastconv::ops::impl_with_out<&fastconv::ops::stem_conv2d>(m, "stem_conv2d");
}
