#include "plan.h"
#include "pointwise_conv2d.h"

namespace fastconv::cuda {

namespace {

// Elements of a 16-byte access along the axis that is contiguous, or 1 where some access would not
// be aligned.
int width_of(const PointwiseConv2dParams& p) {
  const int wide = pack_width(p.dtype, p.input, p.residual, p.output);
  const bool whole = p.layout == Layout::kNHWC
                         ? p.in_channels % wide == 0 && p.out_channels % wide == 0
                         : p.height * p.width % wide == 0 && !is_subsampled(p);
  return whole ? wide : 1;
}

int accumulator_bytes(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : 4;
}

}  // namespace

Launch plan(const PointwiseConv2dParams& p, const Device&) {
  Launch launch{};
  launch.kernel = Kernel::pointwise_conv2d_simt;
  launch.threads = kSimtThreads;
  launch.blocks =
      div_up<int64_t>(pixels_of(p), kSimtPixels) * div_up<int64_t>(p.out_channels, kSimtOuts);
  launch.shared_bytes =
      kSimtDepth * ((kSimtPixels + kSimtOuts) * accumulator_bytes(p.dtype) + 2 * 16);
  return with_arguments(launch, p.dtype, p.layout, p.dtype == DType::kFloat32 ? width_of(p) : 1);
}

int64_t splits_of(const PointwiseConv2dWeightGradientParams& p, const Device& device) {
  const int64_t in_tiles = p.grad_weight ? div_up<int64_t>(p.in_channels, kGradTile) : 1;
  const int64_t tiles = in_tiles * div_up<int64_t>(p.out_channels, kGradTile);
  // Four blocks a multiprocessor, by their registers. A part of fewer pixels than this would write
  // as much as it reads: kGradTile^2 sums of 4 bytes for 2 * kGradTile * pixels elements of 2.
  constexpr int64_t kBlocks = 4, kFewestPixels = 256;
  const int64_t wanted = div_up<int64_t>(kBlocks * device.multiprocessors, tiles);
  return max_of<int64_t>(1, min_of(wanted, pixels_of(p) / kFewestPixels));
}

Launch plan(const PointwiseConv2dPartialParams& p, const Device&) {
  const int64_t in_tiles = p.grad_weight ? div_up<int64_t>(p.in_channels, kGradTile) : 1;
  Launch launch{};
  launch.kernel = Kernel::pointwise_conv2d_weight_gradient_simt;
  launch.threads = kGradThreads;
  launch.blocks = p.splits * in_tiles * div_up<int64_t>(p.out_channels, kGradTile);
  launch.shared_bytes = 2 * kGradDepth * (kGradTile * accumulator_bytes(p.dtype) + 16);
  return with_arguments(launch, p.dtype, p.layout);
}

Launch plan(const PointwiseConv2dSumParams& p, const Device&) {
  Launch launch{};
  launch.kernel = Kernel::pointwise_conv2d_weight_gradient_sum;
  launch.threads = kElementwiseThreads;
  launch.blocks = div_up<int64_t>(partial_elements(p), kElementwiseThreads);
  return with_arguments(launch, p.dtype);
}

Launch plan(const PointwiseConv2dSpreadParams& p, const Device&) {
  Launch launch{};
  launch.kernel = Kernel::pointwise_conv2d_spread;
  launch.threads = kElementwiseThreads;
  launch.blocks =
      div_up<int64_t>(p.batch * p.in_channels * p.in_height * p.in_width, kElementwiseThreads);
  return with_arguments(launch, p.dtype);
}

}  // namespace fastconv::cuda
