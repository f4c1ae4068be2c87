// Both gradients of a depthwise convolution of stride 1 in channels_last, in one pass: either sums
// what a pixel of the input meets of grad_output, which a block therefore stages once.
#pragma once

#include "depthwise_conv2d_nhwc.cuh"
#include "depthwise_conv2d_weight_nhwc.cuh"

namespace fastconv::cuda {

template <int dtype, int kernel, int known_channels = 0>
__global__ void __launch_bounds__(kTileThreads, gradients_blocks(kernel))
    depthwise_conv2d_gradients_nhwc_tile(const DepthwiseGradientsParams p) {
  using T = element_t<dtype>;
  constexpr DepthwiseTile tile = depthwise_gradients_tile(kernel);
  constexpr int kTaps = kernel * kernel, kMiddle = middle_tap(kernel);
  FASTCONV_SHARED(shared);
  const DepthwiseWeightParams& q = with_channels<known_channels>(p.sums);
  const DepthwiseConv2dShape& s = q.shape;
  const DepthwiseTiles& t = q.tiles;
  const int channels = int(s.channels), batch = int(s.batch);
  float* weights = reinterpret_cast<float*>(shared);
  T* sources = reinterpret_cast<T*>(weights + kTaps * kTileChannels);
  const T* input = static_cast<const T*>(q.grad_output);
  const TileSource<T> grads{static_cast<const T*>(q.input), batch, int(s.height), int(s.width),
                            channels};
  const TilePlace at = tile_place(t);
  const int lane = threadIdx.x % kTileLanes, pitch = t.source_columns * kTileChannels;

  uint32_t slab = blockIdx.x;
  const int first_channel = take(slab, t.channel_blocks) * kTileChannels;
  const auto [first, last] = share_of(t.patches, q.slabs, slab);
  const bool finite = stage_weights<kernel, T>(p.weight, first_channel, channels, weights);
  const bool skips = __syncthreads_or(!finite);

  float sums[kTaps + 1][2] = {};  // the bias last
  for (uint32_t patch = first; patch < last; ++patch) {
    TileOrigin o = tile_origin(t, tile, patch, first_channel);
    set_source<1, -1>(o, s, 0);
    stage_sources(grads, t, o, sources);
    commit_copies();
    const TileTargets place = tile_targets(tile, o, at, int(s.out_height), int(s.out_width),
                                           channels, int(s.height), int(s.width));
    const bool exists = place.channel < channels && place.image < batch;
    float inputs[tile.rows][tile.columns][2];  // on their way while the sources are
    load_targets(s, input, place.image, place.row, place.column, place.channel, exists, inputs);
    wait_copies<0>();
    __syncthreads();
    const T* from = staged_tile(sources, t, tile, at);
    float results[tile.rows][tile.columns][2] = {};
#pragma unroll
    for (int r = 0; r < tile.source_rows; ++r) {
      float source[tile.source_columns][2];
      load_staged(from + r * pitch, source);
#pragma unroll
      for (int i = 0; i < tile.rows; ++i) {
        const int tap_row = r - i;
        if (tap_row < 0 || tap_row >= kernel) continue;
#pragma unroll
        for (int tap_column = 0; tap_column < kernel; ++tap_column) {
          const int tap = tap_row * kernel + tap_column;
          float weight[2];
          load_pair(weights + tap * kTileChannels + 2 * lane, weight);
#pragma unroll
          for (int j = 0; j < tile.columns; ++j) {
            const float (&grad)[2] = source[j + tap_column];
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              results[i][j][c] += grad[c] * weight[c];
              sums[tap][c] += grad[c] * inputs[i][j][c];
              if (tap_row == kMiddle && tap_column == kMiddle) sums[kTaps][c] += grad[c];
            }
          }
        }
      }
    }
    T* target = static_cast<T*>(p.grad_input);
    if (exists && !skips) store_tile(target, place, results);
    if (exists && skips) {
      store_inside<T, kernel, 1, -1>(target, place, tile, from, pitch, weights + 2 * lane,
                                     static_cast<const T*>(nullptr), Activation::kNone);
    }
    __syncthreads();  // before the next sources
  }
  write_sums<T, kTaps, true>(q, tile, first_channel, slab, first, last, sums,
                             reinterpret_cast<float*>(sources));
}

}  // namespace fastconv::cuda
