// fastconv::max_pool2d on CPU tensors.
#include "../kernels/max_pool2d.h"

#include "../kernels/cpu/registry.h"
#include "out.h"

namespace fastconv::ops {

namespace {

constexpr const char* kOp = "max_pool2d";
constexpr double kNanosecondsAByte = 0.02;  // of the windows, from the caches

// Windows along an axis, as torch counts them: with ceil_mode the last may stand out, but begins
// in the image or the padding before it.
int64_t output_size(int64_t size, int64_t kernel, int64_t stride, int64_t pad, bool ceil_mode) {
  const int64_t room = size + 2 * pad - kernel;
  if (room < 0 && !(ceil_mode && room + stride > 0)) return 0;
  const int64_t windows = (room + (ceil_mode ? stride - 1 : 0)) / stride + 1;
  return ceil_mode && (windows - 1) * stride >= size + pad ? windows - 1 : windows;
}

Tensor max_pool2d(Out out, const Tensor& input, const std::vector<int64_t>& kernel,
                  const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                  bool ceil_mode) {
  check_dim(kOp, "input", input, 4);
  MaxPool2dParams p{};
  p.dtype = dtype_of(input, kOp);
  p.layout = layout_of(input);
  p.batch = input.size(0), p.channels = input.size(1);
  p.height = input.size(2), p.width = input.size(3);
  constexpr int64_t kMost = INT32_MAX;
  for (size_t i = 0; i < 2; ++i) {
    FASTCONV_CHECK(kernel.size() == 2 && stride.size() == 2 && padding.size() == 2 &&
                       kernel[i] >= 1 && kernel[i] <= kMost && stride[i] >= 1 &&
                       stride[i] <= kMost && padding[i] >= 0 && padding[i] <= kernel[i] / 2,
                   kOp, ": expected kernel_size and stride from 1 and padding of at most half the ",
                   "kernel, got ", to_string(kernel), ", ", to_string(stride), " and ",
                   to_string(padding));
  }
  p.kernel_h = kernel[0], p.kernel_w = kernel[1], p.stride_h = stride[0], p.stride_w = stride[1];
  p.pad_top = padding[0], p.pad_left = padding[1];
  p.out_height = output_size(p.height, p.kernel_h, p.stride_h, p.pad_top, ceil_mode);
  p.out_width = output_size(p.width, p.kernel_w, p.stride_w, p.pad_left, ceil_mode);
  FASTCONV_CHECK(
      p.channels > 0 && p.height > 0 && p.width > 0 && p.out_height > 0 && p.out_width > 0, kOp,
      ": expected input with channels and a window of pixels, got ", to_string(input),
      " for kernel_size ", to_string(kernel));

  const Tensor x = dense(input, p.layout);
  Tensor output =
      output_of(kOp, out, x, {p.batch, p.channels, p.out_height, p.out_width}, p.layout);
  p.input = x.const_data_ptr();
  p.output = output.mutable_data_ptr();
  count(max_pool2d_variant(p));
  const int64_t units = max_pool2d_units(p);
  const double bytes = double(output.numel()) * p.kernel_h * p.kernel_w * size_of(p.dtype);
  const auto forward = max_pool2d_kernels().forward;
  parallel(units, bytes * kNanosecondsAByte / std::max<int64_t>(units, 1),
           [&](int64_t begin, int64_t end) { forward(p, begin, end); });
  return output;
}

}  // namespace

}  // namespace fastconv::ops

STABLE_TORCH_LIBRARY_IMPL(fastconv, CPU, m) {
  fastconv::ops::impl_with_out<&fastconv::ops::max_pool2d>(m, "max_pool2d");
}
