// What a block does before it sums: it finds its patch of targets, and copies the sources that
// these meet into shared memory.
#pragma once

#include "async.cuh"
#include "depthwise_conv2d.h"
#include "pair.cuh"

namespace fastconv::cuda {

// Where a block's work starts.
struct TileOrigin {
  int channel, column, row, image;  // targets
  int source_column, source_row;
};

// The targets of a patch; those of an image follow each other.
FASTCONV_INLINE TileOrigin tile_origin(const DepthwiseTiles& t, const DepthwiseTile& tile,
                                       uint32_t index, int channel) {
  TileOrigin o;
  o.channel = channel;
  o.column = take(index, t.across) * (tile.columns << t.columns_log2);
  o.row = take(index, t.down) * (tile.rows * t.rows);
  o.image = index << t.images_log2;
  return o;
}

template <int stride, int phase>
FASTCONV_INLINE void set_source(TileOrigin& o, const DepthwiseConv2dShape& s, int first) {
  const int left = int(s.pad_left), top = int(s.pad_top);
  if (phase < 0) {
    o.source_column = o.column * stride - left, o.source_row = o.row * stride - top;
  } else {
    o.source_column = (o.column + left) / stride + first;
    o.source_row = (o.row + top) / stride + first;
  }
}

// The tile of a thread's half warp in its block's patch.
struct TilePlace {
  int column, image, row;
};

FASTCONV_INLINE TilePlace tile_place(const DepthwiseTiles& t) {
  const int index = threadIdx.x / kTileLanes;
  return {index & ((1 << t.columns_log2) - 1),
          (index >> t.columns_log2) & ((1 << t.images_log2) - 1),
          index >> (t.columns_log2 + t.images_log2)};
}

// What is staged: a dense channels_last tensor.
template <class T>
struct TileSource {
  const T* data;
  int batch, height, width, channels;
};

// Starts the copies of a patch's sources to shared memory, (image, row, column, channel), zeros for
// the padding. A thread keeps its column and goes down the rows: few instructions a copy.
template <class T>
FASTCONV_INLINE void stage_sources(const TileSource<T>& s, const DepthwiseTiles& t,
                                   const TileOrigin& o, T* to) {
  constexpr int kPacks = kTileChannels / kWide<T>, kSlots = kTileThreads / kPacks;
  const int offset = threadIdx.x % kPacks * kWide<T>, slot = threadIdx.x / kPacks;
  const bool narrow = t.source_columns <= kSlots;
  const int row_step = narrow ? kSlots / t.source_columns : 1;
  const int first_row = narrow ? slot / t.source_columns : 0;
  if (first_row >= row_step) return;

  const int64_t pitch = int64_t(s.width) * s.channels;
  for (int column = narrow ? slot % t.source_columns : slot; column < t.source_columns;
       column += kSlots) {
    const int w = o.source_column + column;
    const bool inside = w >= 0 && w < s.width && o.channel + offset < s.channels;
    for (int i = 0; i < 1 << t.images_log2; ++i) {
      const bool exists = inside && o.image + i < s.batch;
      int h = o.source_row + first_row;
      const T* from = s.data + (int64_t(o.image + i) * s.height + h) * pitch +
                      int64_t(w) * s.channels + o.channel + offset;
      T* into = to + (i * t.image_pixels + first_row * t.source_columns + column) * kTileChannels +
                offset;
      for (int row = first_row; row < t.source_rows; row += row_step) {
        copy_async(into, from, exists && h >= 0 && h < s.height);
        h += row_step, from += row_step * pitch;
        into += row_step * t.source_columns * kTileChannels;
      }
    }
  }
}

// A row of a tile's sources.
template <int count, class T>
FASTCONV_INLINE void load_staged(const T* from, float (&to)[count][2]) {
#pragma unroll
  for (int c = 0; c < count; ++c) load_pair(from + c * kTileChannels, to[c]);
}

// Where a thread's tile of the staged sources starts, its two channels.
template <class T>
FASTCONV_INLINE const T* staged_tile(const T* sources, const DepthwiseTiles& t,
                                     const DepthwiseTile& tile, const TilePlace& at) {
  const int pixel = at.image * t.image_pixels + at.row * tile.step_rows * t.source_columns +
                    at.column * tile.step_columns;
  return sources + pixel * kTileChannels + threadIdx.x % kTileLanes * 2;
}

}  // namespace fastconv::cuda
