// Tiles of pixels x channels on their way into shared memory.
#pragma once

#include "async.cuh"
#include "matrix_tile.cuh"
#include "pixels.cuh"

namespace fastconv::cuda {

// Elements between the rows of such a tile: pixels in channels_last memory, else channels.
template <Layout layout, int pixels, int channels>
constexpr int kPixelPitch = (layout == Layout::kNHWC ? channels : pixels) + kTileGap;
template <Layout layout, int pixels, int channels>
constexpr int kPixelTile =
    (layout == Layout::kNHWC ? pixels : channels) * kPixelPitch<layout, pixels, channels>;

// Which pixels and channels, [pixel, pixel_end) and [channel, channel_end) at most; zeros stand for
// the rest of the tile.
struct Box {
  int64_t pixel, pixel_end, channel, channel_end;
};

// Copies a box by the block's threads; 16 bytes at a time, asynchronously, where width is above 1.
// offset(q): of channel 0 of pixel q.
template <Layout layout, int pixels, int channels, int width, int threads, class T, class Offset>
FASTCONV_INLINE void bring(T* tile, const T* from, const Box& box, int64_t next_channel,
                           const Offset& offset) {
  constexpr bool nhwc = layout == Layout::kNHWC;
  constexpr int kInner = (nhwc ? channels : pixels) / width;
  constexpr int kPacks = kInner * (nhwc ? pixels : channels);
  // Unrolled, the addresses of single elements would all be kept in registers.
#pragma unroll(width == 1 ? 1 : 2)
  for (int i = 0; i < (kPacks + threads - 1) / threads; ++i) {
    const int pack = i * threads + threadIdx.x;
    if (kPacks % threads != 0 && pack >= kPacks) break;
    const int inner = pack % kInner * width, outer = pack / kInner;
    const int64_t q = box.pixel + (nhwc ? outer : inner);
    const int64_t c = box.channel + (nhwc ? inner : outer);
    const bool inside = q < box.pixel_end && c < box.channel_end;
    const T* source = from + (inside ? offset(q) + c * next_channel : 0);
    T* to = tile + outer * kPixelPitch<layout, pixels, channels> + inner;
    if constexpr (width * sizeof(T) == 16) {
      copy_async(to, source, inside);
    } else {
      static_assert(width == 1);
      *to = inside ? *source : T{};
    }
  }
}

}  // namespace fastconv::cuda
