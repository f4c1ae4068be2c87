// output = the maximum over a window of pixels of each channel; padding is never the maximum.
// Floor: one read of the input and one write of the output.
#pragma once

#include "common/types.h"
#include "variants.h"

namespace fastconv {

struct MaxPool2dParams {
  const void* input;  // (batch, channels, height, width), dense in layout
  void* output;       // (batch, channels, out_height, out_width), dense in layout
  int64_t batch, channels, height, width, out_height, out_width;
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left;
  Layout layout;
  DType dtype;
};

FASTCONV_INLINE Variant max_pool2d_variant(const MaxPool2dParams& p) {
  return p.layout == Layout::kNHWC ? Variant::max_pool2d_nhwc : Variant::max_pool2d_nchw;
}

// Work comes in units that may run in any order and on any thread: a row of pixels for
// channels_last, a plane for contiguous tensors.
FASTCONV_INLINE int64_t max_pool2d_units(const MaxPool2dParams& p) {
  return p.batch * (p.layout == Layout::kNHWC ? p.out_height : p.channels);
}

struct MaxPool2dKernels {
  void (*forward)(const MaxPool2dParams&, int64_t begin, int64_t end);
};

}  // namespace fastconv
