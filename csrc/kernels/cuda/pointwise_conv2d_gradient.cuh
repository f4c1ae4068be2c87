// Gradients of the 1x1 convolution. That of the weight is a product over all pixels: blocks sum
// over parts of them, and a second kernel adds the parts in order.
#pragma once

#include "pack.cuh"
#include "pixels.cuh"
#include "pointwise_conv2d.h"

namespace fastconv::cuda {

template <class A>
constexpr int kGradRow = kGradTile + 16 / sizeof(A);

// The pixels of a part: [begin, end).
struct Part {
  int64_t begin, end;
};
FASTCONV_INLINE Part part_of(const PointwiseConv2dPartialParams& p, int64_t split, int depth) {
  const int64_t pixels = pixels_of(p);
  const int64_t size = div_up(div_up(pixels, p.splits), int64_t(depth)) * depth;
  return {min_of(split * size, pixels), min_of((split + 1) * size, pixels)};
}

template <int dtype, int layout_, int known_ins = 0, int known_outs = 0>
__global__ void __launch_bounds__(kGradThreads, 2)
    pointwise_conv2d_weight_gradient_simt(const PointwiseConv2dPartialParams params) {
  const PointwiseConv2dPartialParams& p = with_channels<known_ins, known_outs>(params);
  using T = element_t<dtype>;
  using A = accumulate_t<T>;
  constexpr Layout layout = static_cast<Layout>(layout_);
  constexpr bool nhwc = layout == Layout::kNHWC;
  FASTCONV_SHARED(shared);
  A* gs = reinterpret_cast<A*>(shared);   // (kGradDepth, kGradRow)
  A* xs = gs + kGradDepth * kGradRow<A>;  // (kGradDepth, kGradRow)

  const auto [out_tiles, in_tiles] = grad_tiles(p);
  const int64_t tile_count = out_tiles * in_tiles;
  const int64_t split = blockIdx.x / tile_count, tile = blockIdx.x % tile_count;
  const int64_t first_out = tile / in_tiles * kGradTile, first_in = tile % in_tiles * kGradTile;
  const Part part = part_of(p, split, kGradDepth);
  const int thread = threadIdx.x;

  // A step's elements of this thread, single ones: of one channel (NHWC) or one pixel.
  constexpr int kLoads = kGradTile * kGradDepth / kGradThreads;
  const int channel = nhwc ? thread % kGradTile : thread / kGradDepth;
  const int pixel = nhwc ? thread / kGradTile : thread % kGradDepth;
  constexpr int kNextChannel = nhwc ? 0 : kGradThreads / kGradDepth;
  constexpr int kNextPixel = nhwc ? kGradThreads / kGradTile : 0;
  const auto load = [&](int64_t step) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int64_t q = step + pixel + i * kNextPixel;
      const int c = channel + i * kNextChannel;
      const int at = (pixel + i * kNextPixel) * kGradRow<A> + c;
      gs[at] = xs[at] = 0;
      if (q >= part.end) continue;
      if (first_out + c < p.out_channels) {
        gs[at] = widen(
            static_cast<const T*>(p.grad_output)[output_offset<layout>(p, q, p.out_channels) +
                                                 (first_out + c) * output_channel<layout>(p)]);
      }
      if (p.grad_weight && first_in + c < p.in_channels) {
        xs[at] = widen(static_cast<const T*>(
            p.input)[input_offset<layout>(p, q) + (first_in + c) * input_channel<layout>(p)]);
      }
    }
  };

  constexpr int kSide = 16, kEach = kGradTile / kSide;
  const int row = thread / kSide * kEach, column = thread % kSide * kEach;
  A sums[kEach][kEach] = {};
  A bias = 0;  // of out `thread`
  const bool sums_bias = p.grad_bias && first_in == 0 && thread < kGradTile;
  for (int64_t step = part.begin; step < part.end; step += kGradDepth) {
    load(step);
    __syncthreads();
    if (p.grad_weight) {
#pragma unroll
      for (int k = 0; k < kGradDepth; ++k) {
        using Some = Pack<A, kEach>;
        const Some g = *reinterpret_cast<const Some*>(gs + k * kGradRow<A> + row);
        const Some x = *reinterpret_cast<const Some*>(xs + k * kGradRow<A> + column);
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
#pragma unroll
          for (int j = 0; j < kEach; ++j) sums[i][j] += g.values[i] * x.values[j];
        }
      }
    }
    if (sums_bias) {
#pragma unroll
      for (int k = 0; k < kGradDepth; ++k) bias += gs[k * kGradRow<A> + thread];
    }
    __syncthreads();
  }

  A* partial = static_cast<A*>(p.partial) + split * partial_elements(p);
  if (p.grad_weight) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int64_t o = first_out + row + i;
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        const int64_t c = first_in + column + j;
        if (o < p.out_channels && c < p.in_channels) partial[o * p.in_channels + c] = sums[i][j];
      }
    }
  }
  if (sums_bias && first_out + thread < p.out_channels) {
    partial[p.out_channels * p.in_channels + first_out + thread] = bias;
  }
}

template <int dtype, int known_ins = 0, int known_outs = 0>
__global__ void __launch_bounds__(kElementwiseThreads)
    pointwise_conv2d_weight_gradient_sum(const PointwiseConv2dSumParams params) {
  const PointwiseConv2dSumParams& p = with_channels<known_ins, known_outs>(params);
  using T = element_t<dtype>;
  using A = accumulate_t<T>;
  const int64_t at = int64_t(blockIdx.x) * kElementwiseThreads + threadIdx.x;
  const int64_t weights = p.out_channels * p.in_channels;
  if (at >= partial_elements(p) || !(at < weights ? p.grad_weight : p.grad_bias)) return;
  const A* partial = static_cast<const A*>(p.partial) + at;
  A sum = 0;
#pragma unroll 4
  for (int64_t split = 0; split < p.splits; ++split) sum += partial[split * partial_elements(p)];
  if (at >= weights) {
    static_cast<T*>(p.grad_bias)[at - weights] = narrow<T>(sum);
    return;
  }
  const int64_t o = quotient(at, p.in_channels), c = at - o * p.in_channels;
  static_cast<T*>(p.grad_weight)[o * p.weight_out_stride + c * p.weight_in_stride] = narrow<T>(sum);
}

template <int dtype, int known_ins = 0, int known_outs = 0>
__global__ void __launch_bounds__(kElementwiseThreads)
    pointwise_conv2d_spread(const PointwiseConv2dSpreadParams params) {
  const PointwiseConv2dSpreadParams& p = with_channels<known_ins, known_outs>(params);
  using T = element_t<dtype>;
  const int64_t at = int64_t(blockIdx.x) * kElementwiseThreads + threadIdx.x;
  if (at >= p.batch * p.in_channels * p.in_height * p.in_width) return;
  const bool nhwc = p.layout == Layout::kNHWC;
  // The element's index as (image, y, x) of `below` elements each or apart by them.
  const int64_t below = nhwc ? p.in_channels : 1;
  const int64_t row = quotient(quotient(at, below), p.in_width);
  const int64_t x = quotient(at, below) - row * p.in_width;
  const int64_t plane = quotient(row, p.in_height), y = row - plane * p.in_height;
  const int64_t cy = quotient(y, p.stride_h), cx = quotient(x, p.stride_w);
  T value{};
  if (cy * p.stride_h == y && cx * p.stride_w == x) {
    const int64_t pixel = (plane * p.height + cy) * p.width + cx;
    value = static_cast<const T*>(p.compact)[pixel * below + (nhwc ? at % p.in_channels : 0)];
  }
  static_cast<T*>(p.grad_input)[at] = value;
}

}  // namespace fastconv::cuda
