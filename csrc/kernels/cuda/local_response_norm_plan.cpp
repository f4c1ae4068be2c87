#include "local_response_norm.h"

#include "plan.h"

namespace fastconv::cuda {

namespace {

// The window where it is not clipped by the channels, as torch centres it; else 0.
int whole_window(const LocalResponseNormParams& p) {
  const int64_t window = p.before + 1 + p.after;
  const bool centred = p.before == window / 2 && p.after == (window - 1) / 2;
  return centred && window <= kNormMostWindow ? int(window) : 0;
}

bool has_instance(const LocalResponseNormParams& p, const Device& device) {
  const int window = whole_window(p);
  return p.dtype != DType::kFloat64 && window > 0 && (device.compiles || window == kNormWindow);
}

// Pixels are packs of a power of two where each channel's are whole packs and memory is aligned.
int pixels_a_pack(const LocalResponseNormParams& p) {
  int width = kNormMostPack;
  const auto fits = [&](const void* pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % (width * size_of(p.dtype)) == 0;
  };
  while (width > 1 &&
         (p.pixels % width != 0 || !fits(p.input) || !fits(p.output) || !fits(p.grad_output))) {
    width /= 2;
  }
  return width;
}

Launch plan_nchw(const LocalResponseNormParams& p, const Device& device, bool backward) {
  const int width = pixels_a_pack(p);
  const int64_t tiles = p.batch * div_up<int64_t>(p.pixels / width, kNormThreads);
  // Enough blocks for every multiprocessor to hold eight, if the channels allow it.
  const int64_t wanted = div_up<int64_t>(8 * device.multiprocessors, tiles);
  const int64_t chunks = max_of<int64_t>(1, min_of(wanted, p.channels / kNormLeastChannels));
  Launch launch{};
  launch.kernel =
      backward ? Kernel::local_response_norm_backward_nchw : Kernel::local_response_norm_nchw;
  launch.threads = kNormThreads;
  launch.blocks = tiles * chunks;
  return with_arguments(launch, p.dtype, width, whole_window(p), p.beta == 0.75);
}

// A thread holds the packs before and after its own: they must reach as far as the window does,
// backward as the windows of all in the window do.
bool packs_reach(const LocalResponseNormParams& p, bool backward) {
  const int pack = pack_width(p.dtype, p.input, p.output, p.grad_output);
  const int64_t reach = backward ? p.before + p.after : max_of(p.before, p.after);
  return pack > 1 && p.channels % pack == 0 && reach <= pack;
}

}  // namespace

Launch plan(const LocalResponseNormParams& p, const Device& device) {
  const bool backward = p.grad_output != nullptr;
  if (p.layout == Layout::kNCHW && has_instance(p, device)) return plan_nchw(p, device, backward);
  const int64_t elements = p.batch * p.channels * p.pixels;
  Launch launch{};
  launch.threads = kNormThreads;
  if (p.layout == Layout::kNHWC && has_instance(p, device) && packs_reach(p, backward)) {
    launch.kernel =
        backward ? Kernel::local_response_norm_backward_nhwc : Kernel::local_response_norm_nhwc;
    launch.blocks = div_up<int64_t>(elements / (16 / size_of(p.dtype)), kNormThreads);
    return with_arguments(launch, p.dtype, whole_window(p), p.beta == 0.75,
                          known(p.channels, device));
  }
  launch.kernel =
      backward ? Kernel::local_response_norm_backward_any : Kernel::local_response_norm_any;
  launch.blocks = div_up<int64_t>(elements, kNormThreads);
  return with_arguments(launch, p.dtype);
}

}  // namespace fastconv::cuda
