// output[n][c] = the mean over all pixels of input[n][c], and the gradient of that.
// Floor: one read of the input; forward and gradient do no arithmetic to speak of.
#pragma once

#include "common/types.h"
#include "variants.h"

namespace fastconv {

struct GlobalAvgPool2dParams {
  const void* input;  // forward: (batch, channels, pixels), dense in layout; gradient: grad_output
  void* output;       // forward: (batch, channels); gradient: (batch, channels, pixels) in layout
  int64_t batch, channels, pixels;
  Layout layout;
  DType dtype;
};

// Channels of a unit: enough vectors to hide the latency of additions, few enough that one image
// makes work for several threads.
constexpr int64_t kGlobalAvgPool2dChannels = 64;

FASTCONV_INLINE Variant global_avg_pool2d_variant(const GlobalAvgPool2dParams& p) {
  return p.layout == Layout::kNHWC ? Variant::global_avg_pool2d_nhwc
                                   : Variant::global_avg_pool2d_nchw;
}

FASTCONV_INLINE Variant global_avg_pool2d_backward_variant(const GlobalAvgPool2dParams& p) {
  return p.layout == Layout::kNHWC ? Variant::global_avg_pool2d_backward_nhwc
                                   : Variant::global_avg_pool2d_backward_nchw;
}

// Work comes in units that may run in any order and on any thread: an image's block of channels.
FASTCONV_INLINE int64_t global_avg_pool2d_units(const GlobalAvgPool2dParams& p) {
  return p.batch * div_up(p.channels, kGlobalAvgPool2dChannels);
}

struct GlobalAvgPool2dKernels {
  void (*forward)(const GlobalAvgPool2dParams&, int64_t begin, int64_t end);
  void (*backward)(const GlobalAvgPool2dParams&, int64_t begin, int64_t end);
};

}  // namespace fastconv
