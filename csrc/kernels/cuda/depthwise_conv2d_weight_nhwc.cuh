// The weight gradient of a depthwise convolution in channels_last: a block goes over the patches of
// its slab, its threads keep k x k sums of two channels in registers, each over tiles of its own.
#pragma once

#include "depthwise_conv2d_stage.cuh"
#include "depthwise_conv2d_weight_inside.cuh"

namespace fastconv::cuda {

// A thread's targets; zeros where there are none.
template <class T, int rows, int columns>
FASTCONV_INLINE void load_targets(const DepthwiseConv2dShape& s, const T* grad, int64_t image,
                                  int row, int column, int channel, bool exists,
                                  float (&targets)[rows][columns][2]) {
  const int width = int(s.out_width), channels = int(s.channels);
  grad += ((image * s.out_height + row) * width + column) * channels + channel;
#pragma unroll
  for (int i = 0; i < rows; ++i) {
    const bool inside = exists && row + i < s.out_height;
#pragma unroll
    for (int j = 0; j < columns; ++j) {
      targets[i][j][0] = targets[i][j][1] = 0;
      if (inside && column + j < width) load_pair(grad + j * channels, targets[i][j]);
    }
    grad += int64_t(width) * channels;
  }
}

// The sum of a tap over patches, for where the tiles' zeros met an infinite gradient.
template <class T>
FASTCONV_INLINE float sum_inside(const DepthwiseWeightParams& p, const DepthwiseTile& tile,
                                 uint32_t first, uint32_t last, int tap, int channel) {
  float sum = 0;
  for (uint32_t patch = first; patch < last; ++patch) {
    const TileOrigin o = tile_origin(p.tiles, tile, patch, channel);
    sum += weight_sum_inside<T>(
        p, channel, tap,
        {o.image, o.image + (1 << p.tiles.images_log2), o.row, o.row + tile.rows * p.tiles.rows,
         o.column, o.column + (tile.columns << p.tiles.columns_log2)});
  }
  return sum;
}

// Writes the sums of a slab, those of the taps and the bias's: over the half warps of a warp, then
// over the warps, always in the same order. turned: those of a convolution with the weights turned
// around.
template <class T, int taps, bool turned>
__device__ __forceinline__ void write_sums(const DepthwiseWeightParams& p,
                                           const DepthwiseTile& tile, int first_channel,
                                           uint32_t slab, uint32_t first, uint32_t last,
                                           float (&sums)[taps + 1][2], float* parts) {
  constexpr int kSums = taps + 1, kWarps = kTileThreads / 32;
  const int channels = int(p.shape.channels), lane = threadIdx.x % kTileLanes;
  bool is_nan = false;
#pragma unroll
  for (int i = 0; i < kSums * 2; ++i) {
    float& sum = sums[i / 2][i % 2];
    is_nan |= sum != sum;
    sum += __shfl_xor_sync(~0u, sum, kTileLanes);
    const int warp = threadIdx.x / 32;
    if (threadIdx.x % 32 < kTileLanes) {
      parts[(warp * kSums + i / 2) * kTileChannels + 2 * lane + i % 2] = sum;
    }
  }
  const bool skips = __syncthreads_or(is_nan);
  float* partial = static_cast<float*>(p.partial) + slab * kSums * int64_t(channels);
  for (int i = threadIdx.x; i < kSums * kTileChannels; i += kTileThreads) {
    const int tap = i / kTileChannels, c = first_channel + i % kTileChannels;
    if (c >= channels) continue;
    float sum = 0;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) sum += parts[warp * kSums * kTileChannels + i];
    if (skips && tap < taps) sum = sum_inside<T>(p, tile, first, last, tap, c);
    const int to = turned && tap < taps ? taps - 1 - tap : tap;
    partial[int64_t(to) * channels + c] = sum;
  }
}

template <int dtype, int kernel, int stride, int known_channels = 0>
__global__ void __launch_bounds__(kTileThreads, tile_blocks(kernel))
    depthwise_conv2d_weight_nhwc_tile(const DepthwiseWeightParams params) {
  const DepthwiseWeightParams& p = with_channels<known_channels>(params);
  using T = element_t<dtype>;
  constexpr DepthwiseTile tile = depthwise_weight_tile(kernel, stride);
  constexpr int kTaps = kernel * kernel;
  FASTCONV_SHARED(shared);
  const DepthwiseConv2dShape& s = p.shape;
  const DepthwiseTiles& t = p.tiles;
  const int channels = int(s.channels), batch = int(s.batch);
  T* sources = reinterpret_cast<T*>(shared);
  const TileSource<T> input{static_cast<const T*>(p.input), batch, int(s.height), int(s.width),
                            channels};
  const TilePlace at = tile_place(t);
  const int lane = threadIdx.x % kTileLanes, pitch = t.source_columns * kTileChannels;

  uint32_t slab = blockIdx.x;
  const int first_channel = take(slab, t.channel_blocks) * kTileChannels;
  const int channel = first_channel + 2 * lane;
  const auto [first, last] = share_of(t.patches, p.slabs, slab);

  float sums[kTaps + 1][2] = {};  // the bias last
  for (uint32_t patch = first; patch < last; ++patch) {
    TileOrigin o = tile_origin(t, tile, patch, first_channel);
    set_source<stride, -1>(o, s, 0);
    stage_sources(input, t, o, sources);
    commit_copies();
    float targets[tile.rows][tile.columns][2];  // on their way while the sources are
    load_targets(s, static_cast<const T*>(p.grad_output), o.image + at.image,
                 o.row + at.row * tile.rows, o.column + at.column * tile.columns, channel,
                 channel < channels && o.image + at.image < batch, targets);
    wait_copies<0>();
    __syncthreads();
    const T* from = staged_tile(sources, t, tile, at);
#pragma unroll
    for (int r = 0; r < tile.source_rows; ++r) {
      float source[tile.source_columns][2];
      load_staged(from + r * pitch, source);
#pragma unroll
      for (int i = 0; i < tile.rows; ++i) {
        const int tap_row = r - i * stride;
        if (tap_row < 0 || tap_row >= kernel) continue;
#pragma unroll
        for (int tap_column = 0; tap_column < kernel; ++tap_column) {
          float (&sum)[2] = sums[tap_row * kernel + tap_column];
#pragma unroll
          for (int j = 0; j < tile.columns; ++j) {
            sum[0] += source[j * stride + tap_column][0] * targets[i][j][0];
            sum[1] += source[j * stride + tap_column][1] * targets[i][j][1];
          }
        }
      }
    }
#pragma unroll
    for (int i = 0; i < tile.rows * tile.columns * 2; ++i) {
      sums[kTaps][i % 2] += (&targets[0][0][0])[i];
    }
    __syncthreads();  // before the next sources
  }

  write_sums<T, kTaps, false>(p, tile, first_channel, slab, first, last, sums,
                              reinterpret_cast<float*>(shared));
}

}  // namespace fastconv::cuda
