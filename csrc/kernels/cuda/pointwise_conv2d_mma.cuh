// The 1x1 convolution of 16-bit types on the matrix unit. channels_last: pixels are the rows of the
// product and output channels its columns; else the other way round, so that what lies together in
// the output are always columns.
//
// A block keeps to its output channels and goes from one tile of pixels to the next; copies of the
// coming chunks are under way while it multiplies.
#pragma once

#include "pointwise_conv2d.h"
#include "weight_tile.cuh"

namespace fastconv::cuda {

// Params: those of a whole product, or of one in splits.
template <int dtype, int layout_, int width, int outs, class Params>
__device__ __forceinline__ void multiply_on_matrix_unit(const Params& p) {
  constexpr bool splits = kSplits<Params>;
  using T = element_t<dtype>;
  constexpr Layout layout = static_cast<Layout>(layout_);
  constexpr bool nhwc = layout == Layout::kNHWC;
  constexpr int kPixels = mma_pixels(outs);
  constexpr int kColumnWarps = kMmaThreads / 32 * kMmaWarpRows / (nhwc ? kPixels : outs);
  constexpr int kWarpColumns = (nhwc ? outs : kPixels) / kColumnWarps;
  static_assert(kColumnWarps > 0 && kWarpColumns % 32 == 0);
  constexpr int kInputTile = kPixelTile<layout, kPixels, kChunk>;
  constexpr int kWeightTile = outs * kChunkPitch;
  FASTCONV_SHARED(shared);
  T* inputs = reinterpret_cast<T*>(shared);       // (kMmaStages, kInputTile)
  T* weights = inputs + kMmaStages * kInputTile;  // (chunks or kMmaStages, kWeightTile)

  const WeightMatrix matrix = weight_matrix(p.weight, p.out_channels, p.in_channels,
                                            p.weight_out_stride, p.weight_in_stride);
  const int64_t pixels = pixels_of(p);
  const int64_t out_tiles = div_up<int64_t>(p.out_channels, outs);
  const int64_t first_out = blockIdx.x % out_tiles * outs;
  const int64_t pixel_tiles = div_up<int64_t>(pixels, kPixels);
  // A block of a split has one tile of pixels.
  const int64_t split = splits ? blockIdx.x / out_tiles / pixel_tiles : 0;
  const int64_t first_tile = blockIdx.x / out_tiles - split * pixel_tiles;
  const int64_t stride = splits ? pixel_tiles : gridDim.x / out_tiles;
  const Channels channels = channels_of(p, split, kChunk);
  const int chunks = int(div_up<int64_t>(channels.end - channels.begin, kChunk));
  const bool weights_stay = !splits && mma_weights_stay(p, outs);

  // The copies run ahead of the products: by tile and chunk of their own.
  int64_t coming_tile = first_tile;
  int coming_chunk = 0, coming_stage = 0;
  const auto bring_next = [&] {
    if (coming_tile < pixel_tiles) {
      const Box box{coming_tile * kPixels, pixels, channels.begin + int64_t(coming_chunk) * kChunk,
                    channels.end};
      bring<layout, kPixels, kChunk, width, kMmaThreads>(
          inputs + coming_stage * kInputTile, static_cast<const T*>(p.input), box,
          input_channel<layout>(p), [&](int64_t q) { return input_offset<layout>(p, q); });
      if (!weights_stay || coming_tile == first_tile) {
        T* tile = weights + (weights_stay ? coming_chunk : coming_stage) * kWeightTile;
        bring_weight<outs, kMmaThreads>(tile, matrix, first_out, box.channel);
      }
      coming_stage = (coming_stage + 1) % kMmaStages;
      if (++coming_chunk == chunks) coming_chunk = 0, coming_tile += stride;
    }
    commit_copies();
  };
#pragma unroll 1
  for (int i = 0; i < kMmaStages - 1; ++i) bring_next();

  const int warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, thread = threadIdx.x % 4;
  const int warp_row = warp / kColumnWarps * kMmaWarpRows;
  const int warp_column = warp % kColumnWarps * kWarpColumns;
  Sums<kMmaWarpRows, kWarpColumns> sums;

  // f(result, its offset in the output) for each of this thread's.
  const auto each_value = [&](int64_t first_pixel, auto f) {
#pragma unroll
    for (int i = 0; i < kMmaWarpRows / 16; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = warp_row + 16 * i + 8 * half + group;
#pragma unroll
        for (int j = 0; j < kWarpColumns / 8; ++j) {
#pragma unroll
          for (int k = 0; k < 2; ++k) {
            const int column = warp_column + 8 * j + 2 * thread + k;
            const int64_t q = first_pixel + (nhwc ? row : column);
            const int64_t o = first_out + (nhwc ? column : row);
            if (q < pixels && o < p.out_channels) {
              const int64_t at =
                  output_offset<layout>(p, q, p.out_channels) + o * output_channel<layout>(p);
              f(sums.values[i][j][2 * half + k], at);
            }
          }
        }
      }
    }
  };
  const auto finish = [&](int64_t first_pixel) {
    if constexpr (splits) {
      float* partial = static_cast<float*>(p.partial) + split * output_elements(p);
      return each_value(first_pixel, [&](float value, int64_t at) { partial[at] = value; });
    }
    const T* bias = static_cast<const T*>(p.bias);
    if (bias) {
#pragma unroll
      for (int j = 0; j < kWarpColumns / 8; ++j) {
#pragma unroll
        for (int i = 0; i < kMmaWarpRows / 16; ++i) {
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            const int64_t o = first_out + (nhwc ? warp_column + 8 * j + 2 * thread + k % 2
                                                : warp_row + 16 * i + k / 2 * 8 + group);
            if (o < p.out_channels) sums.values[i][j][k] += widen(bias[o]);
          }
        }
      }
    }
    const T* residual = static_cast<const T*>(p.residual);
    T* output = static_cast<T*>(p.output);
    if constexpr (width == 1) {
      if (residual) {
        each_value(first_pixel, [&](float& value, int64_t at) { value += widen(residual[at]); });
      }
      sums.activate(p.activation);
      each_value(first_pixel, [&](float value, int64_t at) { output[at] = narrow<T>(value); });
    } else {
      write(sums, residual, output, p.activation, [&](int row, int column) {
        const int64_t across = (nhwc ? first_pixel : first_out) + warp_row + row;
        const int64_t along = (nhwc ? first_out : first_pixel) + warp_column + column;
        const int64_t q = nhwc ? across : along, o = nhwc ? along : across;
        if (q >= pixels || o >= p.out_channels) return int64_t(-1);
        return output_offset<layout>(p, q, p.out_channels) + o * output_channel<layout>(p);
      });
    }
  };

  int stage = 0;
  for (int64_t tile = first_tile; tile < pixel_tiles; tile += stride) {
    sums.clear();
    for (int chunk = 0; chunk < chunks; ++chunk) {
      wait_copies<kMmaStages - 2>();
      __syncthreads();
      bring_next();
      const T* weight = weights + (weights_stay ? chunk : stage) * kWeightTile;
      const Operand<T> x{inputs + stage * kInputTile, kPixelPitch<layout, kPixels, kChunk>, nhwc};
      const Operand<T> w = weight_operand<outs>(weight, matrix);
      const int depth = int(channels.end - channels.begin) - chunk * kChunk;
      sums.add(nhwc ? x : w, warp_row, nhwc ? w : x, warp_column, depth);
      stage = (stage + 1) % kMmaStages;
    }
    finish(tile * kPixels);
  }
}

template <int dtype, int layout, int width, int outs, int known_ins = 0, int known_outs = 0>
__global__ void __launch_bounds__(kMmaThreads, mma_blocks(layout, outs))
    pointwise_conv2d_mma(const PointwiseConv2dParams params) {
  multiply_on_matrix_unit<dtype, layout, width, outs>(with_channels<known_ins, known_outs>(params));
}

template <int dtype, int layout, int width, int outs>
__global__ void __launch_bounds__(kMmaThreads, mma_blocks(layout, outs))
    pointwise_conv2d_split_mma(const PointwiseConv2dSplitParams params) {
  multiply_on_matrix_unit<dtype, layout, width, outs>(params);
}

}  // namespace fastconv::cuda
