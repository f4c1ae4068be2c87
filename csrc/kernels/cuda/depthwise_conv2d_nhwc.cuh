// Depthwise convolution and its transpose in channels_last: the pixels that a block's outputs meet
// lie in shared memory, each read by a thread once for all its outputs and converted once.
#pragma once

#include "depthwise_conv2d_stage.cuh"

namespace fastconv::cuda {

// Puts the weights of a block, (tap, channel), into shared memory; whether all are finite. A thread
// keeps its channel.
template <int kernel, class T>
FASTCONV_INLINE bool stage_weights(const DepthwiseParams& p, int channel, float* to) {
  const DepthwiseWeight& w = p.weight;
  const int offset = threadIdx.x % kTileChannels;
  const bool exists = channel + offset < p.shape.channels;
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

template <int dtype, int kernel, int stride, int phase>
__global__ void __launch_bounds__(kTileThreads, tile_blocks(kernel))
    depthwise_conv2d_nhwc_tile(const DepthwiseParams p) {
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
  const bool finite = stage_weights<kernel, T>(p, first_channel, weights);
  wait_copies<0>();
  const bool skips = __syncthreads_or(!finite);

  const TilePlace at = tile_place(t);
  const int lane = threadIdx.x % kTileLanes;
  const int channel = first_channel + 2 * lane, image = o.image + at.image;
  const int row = o.row + at.row * tile.rows, column = o.column + at.column * tile.columns;
  if (image >= batch || channel >= channels) return;

  const int pitch = t.source_columns * kTileChannels;
  const T* from = staged_tile(sources, t, tile, at);
  T* target = static_cast<T*>(p.target) +
              ((int64_t(image) * height + row) * width + column) * channels + channel;
  if (skips) {
    const int source_row = o.source_row + at.row * tile.step_rows;
    const int source_column = o.source_column + at.column * tile.step_columns;
    const int rows[] = {-source_row, int(p.source_height()) - source_row};
    const int columns[] = {-source_column, int(p.source_width()) - source_column};
#pragma unroll 1
    for (int i = 0; i < tile.rows * tile.columns; ++i) {
      const int h = i / tile.columns, w = i % tile.columns;
      if (row + h >= height || column + w >= width) continue;
#pragma unroll 1
      for (int c = 0; c < 2; ++c) {
        const float bias = p.bias ? widen(static_cast<const T*>(p.bias)[channel + c]) : 0;
        float sum = bias + sum_inside<T, kernel, stride, phase>(
                               from + c, pitch, weights + 2 * lane + c, rows, columns, h, w);
        activate(p.activation, &sum, 1);
        target[(int64_t(h) * width + w) * channels + c] = narrow<T>(sum);
      }
    }
    return;
  }

  float bias[2] = {0, 0};
  if (p.bias) {
    const T* from = static_cast<const T*>(p.bias) + channel;
    bias[0] = widen(from[0]), bias[1] = widen(from[1]);
  }
  float sums[tile.rows][tile.columns][2];
#pragma unroll
  for (int i = 0; i < tile.rows * tile.columns * 2; ++i) (&sums[0][0][0])[i] = bias[i % 2];
  sum_tile<T, kernel, stride, phase>(from, pitch, weights + 2 * lane, sums);
  if (phase < 0) activate(p.activation, &sums[0][0][0], tile.rows * tile.columns * 2);

#pragma unroll
  for (int i = 0; i < tile.rows; ++i) {
    if (row + i >= height) break;
#pragma unroll
    for (int j = 0; j < tile.columns; ++j) {
      if (column + j < width) store_pair(target + j * channels, sums[i][j][0], sums[i][j][1]);
    }
    target += int64_t(width) * channels;
  }
}

}  // namespace fastconv::cuda
