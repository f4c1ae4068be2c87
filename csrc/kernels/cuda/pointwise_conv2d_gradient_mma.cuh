// The gradient of the 1x1 weight on the matrix unit, for 16-bit types: output channels are the rows
// of the product, input channels its columns, a part of the pixels its depth.
#pragma once

#include "pixel_tile.cuh"
#include "pointwise_conv2d_gradient.cuh"

namespace fastconv::cuda {

template <int dtype, int layout_, int width>
__global__ void __launch_bounds__(kMmaThreads, kMmaGradBlocks)
    pointwise_conv2d_weight_gradient_mma(const PointwiseConv2dPartialParams p) {
  using T = element_t<dtype>;
  constexpr Layout layout = static_cast<Layout>(layout_);
  constexpr bool nhwc = layout == Layout::kNHWC;
  constexpr int kGradTileElements = kPixelTile<layout, kChunk, kMmaGradOuts>;
  constexpr int kStage = kGradTileElements + kPixelTile<layout, kChunk, kMmaGradIns>;
  FASTCONV_SHARED(shared);
  T* tiles = reinterpret_cast<T*>(shared);  // (kMmaStages, kStage)

  const auto [out_tiles, in_tiles] = grad_tiles(p);
  const int64_t tile_count = out_tiles * in_tiles;
  const int64_t split = blockIdx.x / tile_count, tile = blockIdx.x % tile_count;
  const int64_t first_out = tile / in_tiles * kMmaGradOuts;
  const int64_t first_in = tile % in_tiles * kMmaGradIns;
  const Part part = part_of(p, split, kChunk);

  int64_t coming = part.begin;
  int coming_stage = 0;
  const auto bring_next = [&] {
    if (coming < part.end) {
      T* to = tiles + coming_stage * kStage;
      bring<layout, kChunk, kMmaGradOuts, width, kMmaThreads>(
          to, static_cast<const T*>(p.grad_output), {coming, part.end, first_out, p.out_channels},
          output_channel<layout>(p),
          [&](int64_t q) { return output_offset<layout>(p, q, p.out_channels); });
      if (p.grad_weight) {
        bring<layout, kChunk, kMmaGradIns, width, kMmaThreads>(
            to + kGradTileElements, static_cast<const T*>(p.input),
            {coming, part.end, first_in, p.in_channels}, input_channel<layout>(p),
            [&](int64_t q) { return input_offset<layout>(p, q); });
      }
      coming_stage = (coming_stage + 1) % kMmaStages;
      coming += kChunk;
    }
    commit_copies();
  };
#pragma unroll 1
  for (int i = 0; i < kMmaStages - 1; ++i) bring_next();

  constexpr int kColumnWarps = kMmaThreads / 32 * kMmaWarpRows / kMmaGradOuts;
  constexpr int kWarpColumns = kMmaGradIns / kColumnWarps;
  const int warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, thread = threadIdx.x % 4;
  const int warp_row = warp / kColumnWarps * kMmaWarpRows;
  const int warp_column = warp % kColumnWarps * kWarpColumns;
  Sums<kMmaWarpRows, kWarpColumns> sums;
  sums.clear();
  // The bias's gradient is the product with a matrix of ones.
  const bool sums_bias = p.grad_bias && first_in == 0 && warp_column == 0;
  const uint32_t ones = narrow_pair<T>(1, 1);
  float bias[kMmaWarpRows / 16][4] = {};

  int stage = 0;
  for (int64_t step = part.begin; step < part.end; step += kChunk) {
    wait_copies<kMmaStages - 2>();
    __syncthreads();
    bring_next();
    const T* at = tiles + stage * kStage;
    const Operand<T> g{at, kPixelPitch<layout, kChunk, kMmaGradOuts>, !nhwc};
    const Operand<T> x{at + kGradTileElements, kPixelPitch<layout, kChunk, kMmaGradIns>, !nhwc};
    const int depth = int(min_of<int64_t>(part.end - step, kChunk));
    if (p.grad_weight) sums.add(g, warp_row, x, warp_column, depth);
    if (sums_bias) {
#pragma unroll
      for (int i = 0; i < kMmaWarpRows / 16; ++i) {
#pragma unroll
        for (int k = 0; k < kChunk; k += 16) {
          uint32_t a[4];
          load_fragment<true>(a, g, warp_row + 16 * i, k);
          multiply_add<T>(bias[i], a, ones, ones);
        }
      }
    }
    stage = (stage + 1) % kMmaStages;
  }

  float* partial = static_cast<float*>(p.partial) + split * partial_elements(p);
#pragma unroll
  for (int i = 0; i < kMmaWarpRows / 16; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t o = first_out + warp_row + 16 * i + 8 * half + group;
      if (o >= p.out_channels) continue;
      if (sums_bias && thread == 0) {
        partial[p.out_channels * p.in_channels + o] = bias[i][2 * half];
      }
      if (!p.grad_weight) continue;
#pragma unroll
      for (int j = 0; j < kWarpColumns / 8; ++j) {
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          const int64_t c = first_in + warp_column + 8 * j + 2 * thread + k;
          if (c < p.in_channels) {
            partial[o * p.in_channels + c] = sums.values[i][j][2 * half + k];
          }
        }
      }
    }
  }
}

}  // namespace fastconv::cuda
