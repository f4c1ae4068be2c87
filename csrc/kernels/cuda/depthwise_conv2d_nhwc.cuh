// Depthwise convolution and its transpose in channels_last: the pixels that a block's outputs meet
// lie in shared memory, each read by a thread once for all its outputs and converted once.
#pragma once

#include "depthwise_conv2d_stage.cuh"

namespace fastconv::cuda {

// Puts the weights of a block, (tap, channel), into shared memory; whether all are finite. A thread
// keeps its channel.
template <int kernel, class T>
FASTCONV_INLINE bool stage_weights(const DepthwiseWeight& w, int channel, int channels, float* to) {
  const int offset = threadIdx.x % kTileChannels;
  const bool exists = channel + offset < channels;
  const T* from = static_cast<const T*>(w.data) + (channel + offset) * w.stride_channel;
  bool finite = true;
#pragma unroll 4
  for (int tap = threadIdx.x / kTileChannels; tap < kernel * kernel;
       tap += kTileThreads / kTileChannels) {
    const int64_t at = tap / kernel * w.stride_h + tap % kernel * w.stride_w;
    const float weight = exists ? widen(from[at]) : 0;
    finite &= weight - weight == 0;
    to[tap * kTileChannels + offset] = weight;
  }
  return finite;
}

// Adds to the sums of a thread's tile.
template <class T, int kernel, int stride, int phase, int rows, int columns>
FASTCONV_INLINE void sum_tile(const T* sources, int pitch, const float* weights,
                              float (&sums)[rows][columns][2]) {
  constexpr DepthwiseTile tile = depthwise_tile(kernel, stride, phase);
  constexpr bool kept = kernel <= 3;  // in registers
  float kept_weights[kept ? kernel * kernel : 1][2];
  if constexpr (kept) {
#pragma unroll
    for (int tap = 0; tap < kernel * kernel; ++tap) {
      load_pair(weights + tap * kTileChannels, kept_weights[tap]);
    }
  }
#pragma unroll
  for (int r = 0; r < tile.source_rows; ++r) {
    float source[tile.source_columns][2];
    load_staged(sources + r * pitch, source);
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      const int tap_row = tile_tap(tile, stride, phase, i, r);
      if (tap_row < 0 || tap_row >= kernel) continue;
#pragma unroll
      for (int tap_column = 0; tap_column < kernel; ++tap_column) {
        const int tap = tap_row * kernel + tap_column;
        float weight[2];
        if constexpr (kept) {
          weight[0] = kept_weights[tap][0], weight[1] = kept_weights[tap][1];
        } else {
          load_pair(weights + tap * kTileChannels, weight);
        }
#pragma unroll
        for (int j = 0; j < columns; ++j) {
          const int c = tile_source(tile, stride, phase, j, tap_column);
          if (c < 0) continue;
          sums[i][j][0] += source[c][0] * weight[0];
          sums[i][j][1] += source[c][1] * weight[1];
        }
      }
    }
  }
}

// The sum of one channel of target (i, j) without the taps in the padding, which sum_tile takes as
// zeros: an infinite weight would make them NaN. rows, columns: the first and the end of the
// tile's sources inside the image.
template <class T, int kernel, int stride, int phase>
FASTCONV_INLINE float sum_inside(const T* sources, int pitch, const float* weights,
                                 const int (&rows)[2], const int (&columns)[2], int i, int j) {
  constexpr DepthwiseTile tile = depthwise_tile(kernel, stride, phase);
  float sum = 0;
#pragma unroll 1
  for (int tap = 0; tap < kernel * kernel; ++tap) {
    const int r = tile_source(tile, stride, phase, i, tap / kernel);
    const int c = tile_source(tile, stride, phase, j, tap % kernel);
    if (r < 0 || r < rows[0] || r >= rows[1]) continue;
    if (c < 0 || c < columns[0] || c >= columns[1]) continue;
    sum += widen(sources[r * pitch + c * kTileChannels]) * weights[tap * kTileChannels];
  }
  return sum;
}

// Where a tile's targets lie, and where its first source is.
struct TileTargets {
  int height, width, channels;  // of the tensor
  int row, column, channel;
  int64_t image;
  int source_row, source_column, source_height, source_width;

  FASTCONV_INLINE int64_t first() const {
    return ((image * height + row) * width + column) * channels + channel;
  }
};

// Of a thread's tile in its block's patch, in tensors of such sizes.
FASTCONV_INLINE TileTargets tile_targets(const DepthwiseTile& tile, const TileOrigin& o,
                                         const TilePlace& at, int height, int width, int channels,
                                         int source_height, int source_width) {
  return {height,
          width,
          channels,
          o.row + at.row * tile.rows,
          o.column + at.column * tile.columns,
          o.channel + 2 * int(threadIdx.x % kTileLanes),
          o.image + at.image,
          o.source_row + at.row * tile.step_rows,
          o.source_column + at.column * tile.step_columns,
          source_height,
          source_width};
}

template <class T, int rows, int columns>
FASTCONV_INLINE void store_tile(T* target, const TileTargets& t,
                                const float (&sums)[rows][columns][2]) {
  target += t.first();
#pragma unroll
  for (int i = 0; i < rows; ++i) {
    if (t.row + i >= t.height) break;
#pragma unroll
    for (int j = 0; j < columns; ++j) {
      if (t.column + j < t.width) {
        store_pair(target + j * t.channels, sums[i][j][0], sums[i][j][1]);
      }
    }
    target += int64_t(t.width) * t.channels;
  }
}

// Sums and stores a tile without the taps in the padding.
template <class T, int kernel, int stride, int phase>
FASTCONV_INLINE void store_inside(T* target, const TileTargets& t, const DepthwiseTile& tile,
                                  const T* sources, int pitch, const float* weights, const T* bias,
                                  Activation activation) {
  const int rows[] = {-t.source_row, t.source_height - t.source_row};
  const int columns[] = {-t.source_column, t.source_width - t.source_column};
  target += t.first();
#pragma unroll 1
  for (int i = 0; i < tile.rows * tile.columns; ++i) {
    const int h = i / tile.columns, w = i % tile.columns;
    if (t.row + h >= t.height || t.column + w >= t.width) continue;
#pragma unroll 1
    for (int c = 0; c < 2; ++c) {
      float sum = bias ? widen(bias[t.channel + c]) : 0;
      sum += sum_inside<T, kernel, stride, phase>(sources + c, pitch, weights + c, rows, columns, h,
                                                  w);
      activate(activation, &sum, 1);
      target[(int64_t(h) * t.width + w) * t.channels + c] = narrow<T>(sum);
    }
  }
}

template <int dtype, int kernel, int stride, int phase, int known_channels = 0>
__global__ void __launch_bounds__(kTileThreads, tile_blocks(kernel))
    depthwise_conv2d_nhwc_tile(const DepthwiseParams params) {
  const DepthwiseParams& p = with_channels<known_channels>(params);
  using T = element_t<dtype>;
  constexpr DepthwiseTile tile = depthwise_tile(kernel, stride, phase);
  FASTCONV_SHARED(shared);
  const DepthwiseTiles& t = p.tiles;
  const int channels = int(p.shape.channels), batch = int(p.shape.batch);
  const int height = int(p.target_height()), width = int(p.target_width());
  uint32_t index = blockIdx.x;
  const int first_channel = take(index, t.channel_blocks) * kTileChannels;
  TileOrigin o = tile_origin(t, tile, index, first_channel);
  set_source<stride, phase>(o, p.shape, tile.first);
  float* weights = reinterpret_cast<float*>(shared);
  T* sources = reinterpret_cast<T*>(weights + kernel * kernel * kTileChannels);

  stage_sources<T>({static_cast<const T*>(p.source), batch, int(p.source_height()),
                    int(p.source_width()), channels},
                   t, o, sources);
  commit_copies();
  const bool finite = stage_weights<kernel, T>(p.weight, first_channel, channels, weights);
  wait_copies<0>();
  const bool skips = __syncthreads_or(!finite);

  const TilePlace at = tile_place(t);
  const int lane = threadIdx.x % kTileLanes, pitch = t.source_columns * kTileChannels;
  const TileTargets targets = tile_targets(tile, o, at, height, width, channels,
                                           int(p.source_height()), int(p.source_width()));
  if (targets.image >= batch || targets.channel >= channels) return;

  const T* from = staged_tile(sources, t, tile, at);
  const T* biases = static_cast<const T*>(p.bias);
  T* target = static_cast<T*>(p.target);
  if (skips) {
    store_inside<T, kernel, stride, phase>(target, targets, tile, from, pitch, weights + 2 * lane,
                                           biases, p.activation);
    return;
  }
  float bias[2] = {0, 0};
  if (biases)
    bias[0] = widen(biases[targets.channel]), bias[1] = widen(biases[targets.channel + 1]);
  float sums[tile.rows][tile.columns][2];
#pragma unroll
  for (int i = 0; i < tile.rows * tile.columns * 2; ++i) (&sums[0][0][0])[i] = bias[i % 2];
  sum_tile<T, kernel, stride, phase>(from, pitch, weights + 2 * lane, sums);
  if (phase < 0) activate(p.activation, &sums[0][0][0], tile.rows * tile.columns * 2);
  store_tile(target, targets, sums);
}

}  // namespace fastconv::cuda
