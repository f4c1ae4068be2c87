// Where the pixels of a dense tensor lie. A pixel is counted through all images, so that small
// images share a block.
#pragma once

#include "../pointwise_conv2d.h"
#include "number.cuh"

namespace fastconv::cuda {

// a / b of numbers that are not negative: by the 32-bit division, a quarter of the instructions,
// where both fit.
FASTCONV_INLINE int64_t quotient(int64_t a, int64_t b) {
  if ((uint64_t(a) | uint64_t(b)) >> 32 == 0) return uint32_t(a) / uint32_t(b);
  return a / b;
}

// Channel 0 of pixel q of the output.
template <Layout layout>
FASTCONV_INLINE int64_t output_offset(const PointwiseConv2dShape& p, int64_t q, int64_t channels) {
  if (layout == Layout::kNHWC) return q * channels;
  const int64_t pixels = p.height * p.width, n = quotient(q, pixels);
  return n * (channels - 1) * pixels + q;
}

// Channel 0 of the pixel of the input that makes pixel q of the output.
template <Layout layout>
FASTCONV_INLINE int64_t input_offset(const PointwiseConv2dShape& p, int64_t q) {
  if (!is_subsampled(p)) return output_offset<layout>(p, q, p.in_channels);
  const int64_t row = quotient(q, p.width), n = quotient(row, p.height);
  const int64_t y = (row - n * p.height) * p.stride_h, x = (q - row * p.width) * p.stride_w;
  const int64_t within = y * p.in_width + x, pixels = p.in_height * p.in_width;
  return layout == Layout::kNHWC ? (n * pixels + within) * p.in_channels
                                 : n * p.in_channels * pixels + within;
}

// From a channel to the next.
template <Layout layout>
FASTCONV_INLINE int64_t output_channel(const PointwiseConv2dShape& p) {
  return layout == Layout::kNHWC ? 1 : p.height * p.width;
}
template <Layout layout>
FASTCONV_INLINE int64_t input_channel(const PointwiseConv2dShape& p) {
  return layout == Layout::kNHWC ? 1 : p.in_height * p.in_width;
}

}  // namespace fastconv::cuda
