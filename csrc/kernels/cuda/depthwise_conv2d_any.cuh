// Depthwise convolution, its transpose and its weight gradient for any kernel, stride, dilation,
// multiplier, layout and type: one thread an output, or a thread or a warp a tap.
#pragma once

#include "depthwise_conv2d.h"
#include "number.cuh"

namespace fastconv::cuda {

// Where an element lies, by layout.
struct DepthwiseStrides {
  int64_t image, channel, pixel;
};

FASTCONV_INLINE DepthwiseStrides depthwise_strides(Layout layout, int64_t channels,
                                                   int64_t pixels) {
  const bool nhwc = layout == Layout::kNHWC;
  return {channels * pixels, nhwc ? 1 : pixels, nhwc ? channels : 1};
}

// The taps along one axis that meet the source, for one pixel of the target. Those that would meet
// the padding are left out, so an infinite weight makes no NaN at the border.
struct Taps {
  int64_t first, step, count;
  int64_t at, at_step;  // the source's pixel that the first tap meets, and on to the next
};

FASTCONV_INLINE Taps taps_of_output(int64_t target, int64_t size, int64_t kernel, int64_t stride,
                                    int64_t dilation, int64_t padding) {
  const int64_t at = target * stride - padding;
  const int64_t first = at < 0 ? div_up(-at, dilation) : 0;
  const int64_t last = min_of(kernel, at < size ? div_up(size - at, dilation) : 0);
  return {first, 1, last - first, at + first * dilation, dilation};
}

// Tap t meets output o of input `target` where o * stride + t * dilation == target + padding.
FASTCONV_INLINE Taps taps_of_input(int64_t target, int64_t size, int64_t kernel, int64_t stride,
                                   int64_t dilation, int64_t padding, int64_t period) {
  const int64_t sum = target + padding;
  int64_t first = 0;
  while (first < period && (sum - first * dilation) % stride != 0) ++first;
  if (first == period) return {0, 1, 0, 0, 0};
  const int64_t back = period * dilation / stride;
  int64_t at = (sum - first * dilation) / stride;
  if (at >= size) {
    const int64_t skipped = div_up(at - size + 1, back);
    first += skipped * period, at -= skipped * back;
  }
  const int64_t inside = at < 0 ? 0 : at / back + 1;
  const int64_t left = first < kernel ? div_up(kernel - first, period) : 0;
  return {first, period, min_of(inside, left), at, -back};
}

// The sum of a window, without the bias.
template <class T>
FASTCONV_INLINE accumulate_t<T> depthwise_window(const DepthwiseParams& p, int64_t image,
                                                 int64_t channel, int64_t row, int64_t column) {
  using A = accumulate_t<T>;
  const DepthwiseConv2dShape& s = p.shape;
  const int64_t height = p.source_height(), width = p.source_width();
  const Taps rows =
      p.transposed
          ? taps_of_input(row, height, s.kernel_h, s.stride_h, s.dilation_h, s.pad_top, p.period_h)
          : taps_of_output(row, height, s.kernel_h, s.stride_h, s.dilation_h, s.pad_top);
  const Taps columns = p.transposed ? taps_of_input(column, width, s.kernel_w, s.stride_w,
                                                    s.dilation_w, s.pad_left, p.period_w)
                                    : taps_of_output(column, width, s.kernel_w, s.stride_w,
                                                     s.dilation_w, s.pad_left);
  const int64_t channels = p.transposed ? s.out_channels() : s.channels;
  const DepthwiseStrides by = depthwise_strides(s.layout, channels, height * width);
  const int64_t reads = p.transposed ? channel * s.multiplier : channel / s.multiplier;
  const int64_t filters = p.transposed ? s.multiplier : 1;

  A sum = 0;
  for (int64_t m = 0; m < filters; ++m) {
    const int64_t filter = p.transposed ? reads + m : channel;
    const T* weight = static_cast<const T*>(p.weight.data) + filter * p.weight.stride_channel +
                      rows.first * p.weight.stride_h + columns.first * p.weight.stride_w;
    const T* source = static_cast<const T*>(p.source) + image * by.image +
                      (reads + m) * by.channel + (rows.at * width + columns.at) * by.pixel;
    for (int64_t i = 0; i < rows.count; ++i) {
      const T* x = source + i * rows.at_step * width * by.pixel;
      const T* w = weight + i * rows.step * p.weight.stride_h;
      for (int64_t j = 0; j < columns.count; ++j) {
        sum += widen(*x) * widen(*w);
        x += columns.at_step * by.pixel, w += columns.step * p.weight.stride_w;
      }
    }
  }
  return sum;
}

template <int dtype>
__global__ void __launch_bounds__(kDepthwiseThreads, 3)
    depthwise_conv2d_any(const DepthwiseParams p) {
  using T = element_t<dtype>;
  using A = accumulate_t<T>;
  const int64_t channels = p.target_channels(), height = p.target_height();
  const int64_t width = p.target_width();
  const int64_t target = int64_t(blockIdx.x) * kDepthwiseThreads + threadIdx.x;
  if (target >= p.shape.batch * channels * height * width) return;
  int64_t at = target, channel = 0;
  if (p.shape.layout == Layout::kNHWC) channel = at % channels, at /= channels;
  const int64_t column = at % width;
  at /= width;
  const int64_t row = at % height;
  at /= height;
  if (p.shape.layout == Layout::kNCHW) channel = at % channels, at /= channels;
  A sum = depthwise_window<T>(p, at, channel, row, column);
  if (p.bias) sum += widen(static_cast<const T*>(p.bias)[channel]);
  activate(p.activation, &sum, 1);
  static_cast<T*>(p.target)[target] = narrow<T>(sum);
}

// Partial sums of the weight gradient. lanes: threads that share a sum, 1 or the 32 of a warp; they
// take the slab's pixels in turn.
template <int dtype, int lanes>
__global__ void __launch_bounds__(kDepthwiseThreads, 3)
    depthwise_conv2d_weight_any(const DepthwiseWeightParams p) {
  using T = element_t<dtype>;
  using A = accumulate_t<T>;
  const DepthwiseConv2dShape& s = p.shape;
  const int64_t channels = s.out_channels(), taps = s.taps();
  const int64_t sum_index = (int64_t(blockIdx.x) * kDepthwiseThreads + threadIdx.x) / lanes;
  if (sum_index >= p.slabs * (taps + 1) * channels) return;
  const int64_t channel = sum_index % channels;
  const int64_t tap = sum_index / channels % (taps + 1), slab = sum_index / channels / (taps + 1);
  const bool is_bias = tap == taps;
  const int64_t top = tap / s.kernel_w * s.dilation_h - s.pad_top;
  const int64_t left = tap % s.kernel_w * s.dilation_w - s.pad_left;

  const int64_t pixels = s.out_height * s.out_width;
  const int64_t all = s.batch * pixels, size = div_up(all, p.slabs);
  const int64_t last = min_of(all, (slab + 1) * size);
  const DepthwiseStrides by_g = depthwise_strides(s.layout, channels, pixels);
  const DepthwiseStrides by_x = depthwise_strides(s.layout, s.channels, s.height * s.width);
  const T* grad = static_cast<const T*>(p.grad_output) + channel * by_g.channel;
  const T* input = static_cast<const T*>(p.input) + channel / s.multiplier * by_x.channel;

  int64_t at = slab * size + threadIdx.x % lanes;
  int64_t column = at % s.out_width, row = at / s.out_width % s.out_height, image = at / pixels;
  A sum = 0;
  for (; at < last; at += lanes) {
    const A g = widen(grad[image * by_g.image + (row * s.out_width + column) * by_g.pixel]);
    const int64_t h = row * s.stride_h + top, w = column * s.stride_w + left;
    if (is_bias) {
      sum += g;
    } else if (h >= 0 && h < s.height && w >= 0 && w < s.width) {
      sum += g * widen(input[image * by_x.image + (h * s.width + w) * by_x.pixel]);
    }
    column += lanes;
    while (column >= s.out_width) {
      column -= s.out_width;
      if (++row == s.out_height) row = 0, ++image;
    }
  }
#pragma unroll
  for (int i = lanes / 2; i > 0; i /= 2) sum += __shfl_xor_sync(~0u, sum, i);
  if (threadIdx.x % lanes == 0) static_cast<A*>(p.partial)[sum_index] = sum;
}

// A block sums the parts of a row of channels, each warp every kDepthwiseSumRows-th slab, then the
// first warp the warps' sums: an order of its own, the same each time.
template <int dtype>
__global__ void __launch_bounds__(kDepthwiseSumChannels* kDepthwiseSumRows)
    depthwise_conv2d_weight_sum(const DepthwiseWeightSumParams p) {
  using T = element_t<dtype>;
  using A = accumulate_t<T>;
  FASTCONV_SHARED(shared);
  A* sums = reinterpret_cast<A*>(shared);
  const int64_t channels = p.shape.out_channels(), taps = p.shape.taps();
  const int64_t groups = div_up<int64_t>(channels, kDepthwiseSumChannels);
  const int64_t tap = blockIdx.x / groups;
  const int lane = threadIdx.x % kDepthwiseSumChannels, row = threadIdx.x / kDepthwiseSumChannels;
  const int64_t channel = blockIdx.x % groups * kDepthwiseSumChannels + lane;

  const A* partial = static_cast<const A*>(p.partial) + tap * channels + channel;
  A sum = 0;
  if (channel < channels) {
#pragma unroll 4
    for (int64_t slab = row; slab < p.slabs; slab += kDepthwiseSumRows) {
      sum += partial[slab * (taps + 1) * channels];
    }
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (row != 0 || channel >= channels) return;
#pragma unroll
  for (int i = 1; i < kDepthwiseSumRows; ++i) sum += sums[i * kDepthwiseSumChannels + lane];
  if (tap == taps) {
    static_cast<T*>(p.grad_bias)[channel] = narrow<T>(sum);
  } else {
    static_cast<T*>(
        p.grad_weight)[channel * p.stride_channel + tap / p.shape.kernel_w * p.stride_h +
                       tap % p.shape.kernel_w * p.stride_w] = narrow<T>(sum);
  }
}

}  // namespace fastconv::cuda
