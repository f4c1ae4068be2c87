// Depthwise convolution and its transpose in channels_last: the pixels that a block's outputs meet
// lie in shared memory, each read by a thread once for all its outputs and converted once.
#pragma once

#include "async.cuh"
#include "depthwise_conv2d_any.cuh"
#include "pair.cuh"

namespace fastconv::cuda {

// Where a block's work starts.
struct TileOrigin {
  int channel, column, row, image;  // targets
  int source_column, source_row;
};

template <int stride, int phase>
FASTCONV_INLINE TileOrigin tile_origin(const DepthwiseParams& p, const DepthwiseTile& tile) {
  uint32_t index = blockIdx.x;
  TileOrigin o;
  o.channel = take(index, p.tiles.channel_blocks) * kTileChannels;
  o.column = take(index, p.tiles.across) * (tile.columns << p.tiles.columns_log2);
  o.row = take(index, p.tiles.down) * (tile.rows * p.tiles.rows);
  o.image = index << p.tiles.images_log2;
  const int left = int(p.shape.pad_left), top = int(p.shape.pad_top);
  if (phase < 0) {
    o.source_column = o.column * stride - left, o.source_row = o.row * stride - top;
  } else {
    o.source_column = (o.column + left) / stride + tile.first;
    o.source_row = (o.row + top) / stride + tile.first;
  }
  return o;
}

// Starts the copies of a block's sources to shared memory, (image, row, column, channel), zeros for
// the padding. A thread keeps its column and goes down the rows: few instructions a copy.
template <class T>
FASTCONV_INLINE void stage_sources(const DepthwiseParams& p, const TileOrigin& o, T* to) {
  constexpr int kPacks = kTileChannels / kWide<T>, kSlots = kTileThreads / kPacks;
  const DepthwiseTiles& t = p.tiles;
  const int height = int(p.transposed ? p.shape.out_height : p.shape.height);
  const int width = int(p.transposed ? p.shape.out_width : p.shape.width);
  const int channels = int(p.shape.channels);
  const int offset = threadIdx.x % kPacks * kWide<T>, slot = threadIdx.x / kPacks;
  const bool narrow = t.source_columns <= kSlots;
  const int row_step = narrow ? kSlots / t.source_columns : 1;
  const int first_row = narrow ? slot / t.source_columns : 0;
  if (first_row >= row_step) return;

  const int64_t pitch = int64_t(width) * channels;
  for (int column = narrow ? slot % t.source_columns : slot; column < t.source_columns;
       column += kSlots) {
    const int w = o.source_column + column;
    const bool inside = w >= 0 && w < width && o.channel + offset < channels;
    for (int i = 0; i < 1 << t.images_log2; ++i) {
      const bool exists = inside && o.image + i < p.shape.batch;
      int h = o.source_row + first_row;
      const T* from = static_cast<const T*>(p.source) +
                      (int64_t(o.image + i) * height + h) * pitch + int64_t(w) * channels +
                      o.channel + offset;
      T* into = to + (i * t.image_pixels + first_row * t.source_columns + column) * kTileChannels +
                offset;
      for (int row = first_row; row < t.source_rows; row += row_step) {
        copy_async(into, from, exists && h >= 0 && h < height);
        h += row_step, from += row_step * pitch;
        into += row_step * t.source_columns * kTileChannels;
      }
    }
  }
}

// Puts the weights of a block, (tap, channel), into shared memory; whether all are finite.
template <class T>
FASTCONV_INLINE bool stage_weights(const DepthwiseParams& p, int channel, int kernel, float* to) {
  bool finite = true;
  for (int i = threadIdx.x; i < kernel * kernel * kTileChannels; i += kTileThreads) {
    const int tap = i / kTileChannels, c = channel + i % kTileChannels;
    float weight = 0;
    if (c < p.shape.channels) {
      weight = widen(static_cast<const T*>(
          p.weight.data)[c * p.weight.stride_channel + tap / kernel * p.weight.stride_h +
                         tap % kernel * p.weight.stride_w]);
    }
    finite &= weight - weight == 0;
    to[i] = weight;
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
#pragma unroll
    for (int c = 0; c < tile.source_columns; ++c) {
      load_pair(sources + r * pitch + c * kTileChannels, source[c]);
    }
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

template <int dtype, int kernel, int stride, int phase>
__global__ void __launch_bounds__(kTileThreads, 4)
    depthwise_conv2d_nhwc_tile(const DepthwiseParams p) {
  using T = element_t<dtype>;
  constexpr DepthwiseTile tile = depthwise_tile(kernel, stride, phase);
  FASTCONV_SHARED(shared);
  const DepthwiseTiles& t = p.tiles;
  const TileOrigin o = tile_origin<stride, phase>(p, tile);
  float* weights = reinterpret_cast<float*>(shared);
  T* sources = reinterpret_cast<T*>(weights + kernel * kernel * kTileChannels);

  stage_sources(p, o, sources);
  commit_copies();
  const bool finite = stage_weights<T>(p, o.channel, kernel, weights);
  wait_copies<0>();
  const bool skips = __syncthreads_or(!finite);

  const int lane = threadIdx.x % kTileLanes, index = threadIdx.x / kTileLanes;
  const int tile_column = index & ((1 << t.columns_log2) - 1);
  const int tile_image = (index >> t.columns_log2) & ((1 << t.images_log2) - 1);
  const int tile_row = index >> (t.columns_log2 + t.images_log2);
  const int channel = o.channel + 2 * lane, image = o.image + tile_image;
  const int row = o.row + tile_row * tile.rows, column = o.column + tile_column * tile.columns;
  const int channels = int(p.shape.channels), batch = int(p.shape.batch);
  const int height = int(p.target_height()), width = int(p.target_width());
  if (image >= batch || channel >= channels) return;

  if (skips) {  // zeros of the padding times an infinite weight would be NaN
    for (int i = 0; i < tile.rows * tile.columns * 2; ++i) {
      const int h = row + i / 2 / tile.columns, w = column + i / 2 % tile.columns;
      if (h < height && w < width) depthwise_output<T>(p, image, channel + i % 2, h, w);
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
  const int pitch = t.source_columns * kTileChannels;
  sum_tile<T, kernel, stride, phase>(sources + tile_image * t.image_pixels * kTileChannels +
                                         tile_row * tile.step_rows * pitch +
                                         tile_column * tile.step_columns * kTileChannels + 2 * lane,
                                     pitch, weights + 2 * lane, sums);
  activate(p.activation, &sums[0][0][0], tile.rows * tile.columns * 2);

  T* target = static_cast<T*>(p.target) +
              ((int64_t(image) * height + row) * width + column) * channels + channel;
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
