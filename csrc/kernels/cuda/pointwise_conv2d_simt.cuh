// The 1x1 convolution on CUDA cores: a product of matrices, tiles of both in shared memory.
#pragma once

#include "pack.cuh"
#include "pixels.cuh"
#include "pointwise_conv2d.h"

namespace fastconv::cuda {

// Rows of shared memory are 16 bytes longer than what they hold, against bank conflicts.
template <class A>
constexpr int kSimtInputRow = kSimtPixels + 16 / sizeof(A);
template <class A>
constexpr int kSimtWeightRow = kSimtOuts + 16 / sizeof(A);

// width: elements of a 16-byte access to input, residual and output, or 1. Params: those of a whole
// product, or of one in splits.
template <int dtype, int layout_, int width, class Params>
__device__ __forceinline__ void multiply_on_cuda_cores(const Params& p) {
  constexpr bool splits = kSplits<Params>;
  using T = element_t<dtype>;
  using A = accumulate_t<T>;
  constexpr Layout layout = static_cast<Layout>(layout_);
  constexpr bool nhwc = layout == Layout::kNHWC;
  FASTCONV_SHARED(shared);
  A* xs = reinterpret_cast<A*>(shared);        // (kSimtDepth, kSimtInputRow)
  A* ws = xs + kSimtDepth * kSimtInputRow<A>;  // (kSimtDepth, kSimtWeightRow)

  const int64_t pixels = pixels_of(p);
  const int64_t out_tiles = div_up<int64_t>(p.out_channels, kSimtOuts);
  const int64_t pixel_tiles = div_up<int64_t>(pixels, kSimtPixels);
  const int64_t split = splits ? blockIdx.x / out_tiles / pixel_tiles : 0;
  const int64_t first_pixel = (blockIdx.x / out_tiles - split * pixel_tiles) * kSimtPixels;
  const Channels channels = channels_of(p, split, kSimtDepth);
  const int64_t first_out = blockIdx.x % out_tiles * kSimtOuts;
  const int thread = threadIdx.x;

  // What this thread brings of the input in each step: packs along the axis that is contiguous.
  constexpr int kPacks = kSimtPixels * kSimtDepth / width / kSimtThreads;
  constexpr int kAcross = nhwc ? kSimtDepth / width : kSimtPixels / width;
  constexpr int kDown = kSimtThreads / kAcross;
  const int across = thread % kAcross * width, down = thread / kAcross;
  constexpr int kPixels = nhwc ? kPacks : 1;
  const T* from[kPixels];  // null past the end
#pragma unroll
  for (int i = 0; i < kPixels; ++i) {
    const int64_t q = first_pixel + (nhwc ? down + i * kDown : across);
    from[i] = q < pixels ? static_cast<const T*>(p.input) + input_offset<layout>(p, q) : nullptr;
  }
  // And of the weight: single elements, those next to each other in memory by threads next to each
  // other.
  constexpr int kWeights = kSimtOuts * kSimtDepth / kSimtThreads;
  const bool in_first = p.weight_in_stride == 1;
  const int weight_out = in_first ? thread / kSimtDepth : thread % kSimtOuts;
  const int weight_in = in_first ? thread % kSimtDepth : thread / kSimtOuts;
  const int next_out = in_first ? kSimtThreads / kSimtDepth : 0;
  const int next_in = in_first ? 0 : kSimtThreads / kSimtOuts;

  Pack<T, width> x[kPacks];
  T w[kWeights];
  const auto load = [&](int64_t step) {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const int64_t c = step + (nhwc ? across : down + i * kDown);
      x[i] = {};
      if (from[i % kPixels] && c < channels.end) {
        x[i] = load_pack<width>(from[i % kPixels] + c * input_channel<layout>(p), width);
      }
    }
#pragma unroll
    for (int i = 0; i < kWeights; ++i) {
      const int64_t o = first_out + weight_out + i * next_out;
      const int64_t c = step + weight_in + i * next_in;
      w[i] = {};
      if (o < p.out_channels && c < channels.end) {
        w[i] = static_cast<const T*>(p.weight)[o * p.weight_out_stride + c * p.weight_in_stride];
      }
    }
  };
  const auto keep = [&] {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
#pragma unroll
      for (int j = 0; j < width; ++j) {
        const int pixel = nhwc ? down + i * kDown : across + j;
        const int c = nhwc ? across + j : down + i * kDown;
        xs[c * kSimtInputRow<A> + pixel] = widen(x[i].values[j]);
      }
    }
#pragma unroll
    for (int i = 0; i < kWeights; ++i) {
      const int c = weight_in + i * next_in;
      ws[c * kSimtWeightRow<A> + weight_out + i * next_out] = widen(w[i]);
    }
  };

  // Results of this thread: pixels 4 * row and 64 + 4 * row, each with the next three, and four
  // outs. Threads next to each other write what lies together.
  constexpr int kRows = 8, kColumns = 4, kSide = 16;
  const int row = nhwc ? thread / kSide : thread % kSide;
  const int column = nhwc ? thread % kSide : thread / kSide;
  A sums[kRows][kColumns] = {};
  load(channels.begin);
  for (int64_t step = channels.begin; step < channels.end; step += kSimtDepth) {
    keep();
    __syncthreads();
    if (step + kSimtDepth < channels.end) load(step + kSimtDepth);
#pragma unroll
    for (int c = 0; c < kSimtDepth; ++c) {
      using Four = Pack<A, 4>;
      const A* inputs = xs + c * kSimtInputRow<A> + 4 * row;
      const Four low = *reinterpret_cast<const Four*>(inputs);
      const Four high = *reinterpret_cast<const Four*>(inputs + kSimtPixels / 2);
      const Four b = *reinterpret_cast<const Four*>(ws + c * kSimtWeightRow<A> + 4 * column);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const A a = i < 4 ? low.values[i % 4] : high.values[i % 4];
#pragma unroll
        for (int j = 0; j < kColumns; ++j) sums[i][j] += a * b.values[j];
      }
    }
    __syncthreads();
  }

  // f(offset in the output, values) for each run of `width` results that lie together.
  const auto each_run = [&](auto f) {
#pragma unroll
    for (int run = 0; run < kRows * kColumns; run += width) {
      const int i = nhwc ? run / kColumns : run % kRows;
      const int j = nhwc ? run % kColumns : run / kRows;
      const int64_t q = first_pixel + 4 * row + i % 4 + i / 4 * (kSimtPixels / 2);
      const int64_t o = first_out + 4 * column + j;
      if (q >= pixels || o >= p.out_channels) continue;
      f(output_offset<layout>(p, q, p.out_channels) + o * output_channel<layout>(p),
        [&](int r) -> A& { return nhwc ? sums[i][j + r] : sums[i + r][j]; });
    }
  };
  if constexpr (splits) {
    A* partial = static_cast<A*>(p.partial) + split * output_elements(p);
    return each_run([&](int64_t at, auto value) {
      Pack<A, width> run;
#pragma unroll
      for (int i = 0; i < width; ++i) run.values[i] = value(i);
      store_pack(partial + at, run);
    });
  }
  if (p.bias) {
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      const int64_t o = first_out + 4 * column + j;
      const A bias = o < p.out_channels ? widen(static_cast<const T*>(p.bias)[o]) : A(0);
#pragma unroll
      for (int i = 0; i < kRows; ++i) sums[i][j] += bias;
    }
  }
  if (p.residual) {
    each_run([&](int64_t at, auto value) {
      const auto r = load_pack<width>(static_cast<const T*>(p.residual) + at, width);
#pragma unroll
      for (int i = 0; i < width; ++i) value(i) += widen(r.values[i]);
    });
  }
  activate(p.activation, &sums[0][0], kRows * kColumns);
  each_run([&](int64_t at, auto value) {
    Pack<T, width> run;
#pragma unroll
    for (int i = 0; i < width; ++i) run.values[i] = narrow<T>(value(i));
    store_pack(static_cast<T*>(p.output) + at, run);
  });
}

template <int dtype, int layout, int width, int known_ins = 0, int known_outs = 0>
__global__ void __launch_bounds__(kSimtThreads, 1)
    pointwise_conv2d_simt(const PointwiseConv2dParams params) {
  multiply_on_cuda_cores<dtype, layout, width>(with_channels<known_ins, known_outs>(params));
}

template <int dtype, int layout, int width>
__global__ void __launch_bounds__(kSimtThreads, 1)
    pointwise_conv2d_split_simt(const PointwiseConv2dSplitParams params) {
  multiply_on_cuda_cores<dtype, layout, width>(params);
}

template <int dtype, int layout>
__global__ void __launch_bounds__(kElementwiseThreads)
    pointwise_conv2d_join(const PointwiseConv2dJoinParams p) {
  using T = element_t<dtype>;
  using A = accumulate_t<T>;
  const int64_t elements = output_elements(p);
  const int64_t at = int64_t(blockIdx.x) * kElementwiseThreads + threadIdx.x;
  if (at >= elements) return;
  const A* partial = static_cast<const A*>(p.partial) + at;
  A sum = 0;
#pragma unroll 8
  for (int64_t split = 0; split < p.splits; ++split) sum += partial[split * elements];
  if (p.bias) {
    const int64_t line = quotient(at, output_channel<Layout(layout)>(p));
    const int64_t o = line - quotient(line, p.out_channels) * p.out_channels;
    sum += widen(static_cast<const T*>(p.bias)[o]);
  }
  if (p.residual) sum += widen(static_cast<const T*>(p.residual)[at]);
  activate(p.activation, &sum, 1);
  static_cast<T*>(p.output)[at] = narrow<T>(sum);
}

}  // namespace fastconv::cuda
