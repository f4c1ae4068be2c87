// What the tiles of the weight gradient fall back on. They take the padding as zeros, and a zero
// times an infinite gradient is NaN: sums that are NaN are done again without the taps in the
// padding.
#pragma once

#include "depthwise_conv2d_any.cuh"

namespace fastconv::cuda {

// Pixels of grad_output, ends excluded; those outside of the tensor count nothing.
struct PixelRange {
  int64_t image, last_image, row, last_row, column, last_column;
};

template <class T>
FASTCONV_INLINE float weight_sum_inside(const DepthwiseWeightParams& p, int64_t channel, int tap,
                                        const PixelRange& range) {
  const DepthwiseConv2dShape& s = p.shape;
  const DepthwiseStrides by_g = depthwise_strides(s.layout, s.channels, s.out_height * s.out_width);
  const DepthwiseStrides by_x = depthwise_strides(s.layout, s.channels, s.height * s.width);
  const T* grad = static_cast<const T*>(p.grad_output) + channel * by_g.channel;
  const T* input = static_cast<const T*>(p.input) + channel * by_x.channel;
  const int64_t top = tap / s.kernel_w - s.pad_top, left = tap % s.kernel_w - s.pad_left;
  float sum = 0;
  for (int64_t n = range.image; n < min_of(range.last_image, s.batch); ++n) {
    for (int64_t row = range.row; row < min_of(range.last_row, s.out_height); ++row) {
      const int64_t h = row * s.stride_h + top;
      if (h < 0 || h >= s.height) continue;
      for (int64_t column = range.column; column < min_of(range.last_column, s.out_width);
           ++column) {
        const int64_t w = column * s.stride_w + left;
        if (w < 0 || w >= s.width) continue;
        sum += widen(grad[n * by_g.image + (row * s.out_width + column) * by_g.pixel]) *
               widen(input[n * by_x.image + (h * s.width + w) * by_x.pixel]);
      }
    }
  }
  return sum;
}

}  // namespace fastconv::cuda
