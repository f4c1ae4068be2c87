// Tiles of the weight of a 1x1 convolution on their way into shared memory.
#pragma once

#include "pixel_tile.cuh"
#include "weight_tile.h"

namespace fastconv::cuda {

// The chunk [first_in, first_in + kChunk) of `outs` output channels, as an operand's tile of
// outs * kChunkPitch elements: (out, in) in memory, or (in, out) where the weight has that order.
template <int outs, int threads, class T>
FASTCONV_INLINE void bring_weight(T* tile, const WeightMatrix& w, int64_t first_out,
                                  int64_t first_in) {
  static_assert(kPixelTile<Layout::kNCHW, outs, kChunk> <= outs * kChunkPitch);
  const T* weight = static_cast<const T*>(w.data);
  const Box box{first_out, w.outs, first_in, w.ins};
  const auto row = [&](int64_t o) { return o * w.out_stride; };
  if (!w.wide) {
    bring<Layout::kNHWC, outs, kChunk, 1, threads>(tile, weight, box, w.in_stride, row);
  } else if (w.depth_last) {
    bring<Layout::kNHWC, outs, kChunk, 8, threads>(tile, weight, box, 1, row);
  } else {
    bring<Layout::kNCHW, outs, kChunk, 8, threads>(tile, weight, box, w.in_stride,
                                                   [](int64_t o) { return o; });
  }
}

template <int outs, class T>
FASTCONV_INLINE Operand<T> weight_operand(const T* tile, const WeightMatrix& w) {
  return {tile, w.depth_last ? kChunkPitch : outs + kTileGap, w.depth_last};
}

}  // namespace fastconv::cuda
