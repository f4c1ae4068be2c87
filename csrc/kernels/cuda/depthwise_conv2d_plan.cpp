#include <numeric>

#include "depthwise_conv2d.h"
#include "plan.h"

namespace fastconv::cuda {

void set_periods(DepthwiseParams& p) {
  const DepthwiseConv2dShape& s = p.shape;
  p.period_h = p.transposed ? s.stride_h / std::gcd(s.stride_h, s.dilation_h) : 1;
  p.period_w = p.transposed ? s.stride_w / std::gcd(s.stride_w, s.dilation_w) : 1;
}

int64_t depthwise_slabs(const DepthwiseConv2dShape& s, const Device& device) {
  const int64_t wanted = int64_t{8} * device.multiprocessors * kDepthwiseThreads;
  const int64_t threads = (s.taps() + 1) * s.out_channels();
  const int64_t pixels = s.batch * s.out_height * s.out_width;
  constexpr int64_t kLeastPixels = 256;  // of a slab, which writes taps + 1 sums
  return max_of<int64_t>(1, min_of(div_up(wanted, threads), pixels / kLeastPixels));
}

Launch plan(const DepthwiseParams& p, const Device&) {
  Launch launch{};
  launch.kernel = Kernel::depthwise_conv2d_any;
  launch.threads = kDepthwiseThreads;
  launch.blocks =
      div_up<int64_t>(p.shape.batch * p.target_channels() * p.target_height() * p.target_width(),
                      kDepthwiseThreads);
  return with_arguments(launch, p.shape.dtype);
}

Launch plan(const DepthwiseWeightParams& p, const Device&) {
  const bool by_channel =
      p.shape.layout == Layout::kNHWC && p.shape.out_channels() >= kDepthwiseLeastChannels;
  const int lanes = by_channel ? 1 : 32;
  Launch launch{};
  launch.kernel = Kernel::depthwise_conv2d_weight_any;
  launch.threads = kDepthwiseThreads;
  launch.blocks = div_up<int64_t>(p.slabs * (p.shape.taps() + 1) * p.shape.out_channels() * lanes,
                                  kDepthwiseThreads);
  return with_arguments(launch, p.shape.dtype, lanes);
}

Launch plan(const DepthwiseWeightSumParams& p, const Device&) {
  Launch launch{};
  launch.kernel = Kernel::depthwise_conv2d_weight_sum;
  launch.threads = kDepthwiseSumChannels * kDepthwiseSumRows;
  launch.blocks =
      (p.shape.taps() + 1) * div_up<int64_t>(p.shape.out_channels(), kDepthwiseSumChannels);
  launch.shared_bytes = launch.threads * (p.shape.dtype == DType::kFloat64 ? 8 : 4);
  return with_arguments(launch, p.shape.dtype);
}

}  // namespace fastconv::cuda
