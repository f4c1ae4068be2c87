// fastconv::global_avg_pool2d and its backward pass on CPU tensors.
#include "../kernels/global_avg_pool2d.h"

#include "../kernels/cpu/registry.h"
#include "queued.h"

namespace fastconv::ops {

namespace {

constexpr const char* kOp = "global_avg_pool2d";
constexpr double kNanosecondsAByte = 0.02;  // 50 GB/s a thread, from the L2 cache

GlobalAvgPool2dParams params_of(const Tensor& input) {
  check_dim(kOp, "input", input, 4);
  GlobalAvgPool2dParams p{};
  p.dtype = dtype_of(input, kOp);
  p.layout = layout_of(input);
  p.batch = input.size(0), p.channels = input.size(1);
  p.pixels = input.size(2) * input.size(3);
  FASTCONV_CHECK(p.channels > 0 && p.pixels > 0, kOp,
                 ": expected input to have channels and pixels, got ", to_string(input));
  return p;
}

using Kernel = void (*)(const GlobalAvgPool2dParams&, int64_t begin, int64_t end);

class PoolWork final : public Work {
 public:
  PoolWork(const GlobalAvgPool2dParams& p, Variant variant, Kernel kernel)
      : Work(variant), p_(p), kernel_(kernel) {
    const double bytes = double(p.batch) * p.channels * p.pixels * size_of(p.dtype);
    units[0] = global_avg_pool2d_units(p);
    cost[0] = bytes * kNanosecondsAByte;
  }

  void run(int, char*, int64_t begin, int64_t end) override { kernel_(p_, begin, end); }

 private:
  GlobalAvgPool2dParams p_;
  Kernel kernel_;
};

// From input, read in that layout, to output, which is dense.
void add(Queue& queue, GlobalAvgPool2dParams p, const Tensor& input, Layout layout, Tensor& output,
         Variant variant, Kernel kernel) {
  queue.fill(input, layout);
  Copies copies;
  p.input = copies.read(input, layout);
  p.output = output.mutable_data_ptr();
  auto work = std::make_shared<PoolWork>(p, variant, kernel);
  work->copies = std::move(copies);
  queue.add(std::move(work));
}

}  // namespace

Tensor global_avg_pool2d(Queue& queue, Out out, const Tensor& input) {
  const GlobalAvgPool2dParams p = params_of(input);
  Tensor output = output_of(kOp, out, input, {p.batch, p.channels, 1, 1}, Layout::kNCHW);
  add(queue, p, input, p.layout, output, global_avg_pool2d_variant(p),
      global_avg_pool2d_kernels().forward);
  return output;
}

namespace {

Tensor global_avg_pool2d_backward(const Tensor& grad_output, const Tensor& input) {
  GlobalAvgPool2dParams p = params_of(input);
  check_like_input(kOp, "grad_output", grad_output, input);
  const Sizes wanted{p.batch, p.channels, 1, 1};
  FASTCONV_CHECK(grad_output.dim() == 4 &&
                     std::equal(wanted.begin(), wanted.end(), grad_output.sizes().begin()),
                 kOp, ": expected grad_output of shape ", to_string(wanted), ", got ",
                 to_string(grad_output));
  Tensor result = empty_like(input, Sizes(input.sizes().begin(), input.sizes().end()), p.layout);
  Queue queue;
  add(queue, p, grad_output, Layout::kNCHW, result, global_avg_pool2d_backward_variant(p),
      global_avg_pool2d_kernels().backward);
  queue.run();
  return result;
}

}  // namespace

}  // namespace fastconv::ops

STABLE_TORCH_LIBRARY_IMPL(fastconv, CPU, m) {
  fastconv::ops::impl_with_out<&fastconv::ops::global_avg_pool2d>(m, "global_avg_pool2d");
  fastconv::ops::impl_with_direct<&fastconv::ops::global_avg_pool2d_backward>(
      m, "global_avg_pool2d_backward");
}
