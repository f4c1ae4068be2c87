// How the targets of a depthwise convolution, or of its transpose, are cut into tiles whose sources
// a block stages in shared memory. Targets and sources are pixels written and read.
#pragma once

#include "../common/types.h"
#include "divider.h"

namespace fastconv::cuda {

constexpr int kTileThreads = 128;
// A thread has two channels, so half a warp has these: 64 bytes of 16-bit elements. Twice as many
// would leave a third of the lanes of MobileNetV2's 32, 96 and 144 channels idle.
constexpr int kTileChannels = 32;
constexpr int kTileLanes = kTileChannels / 2;
constexpr int kTilesLog2 = 3;
constexpr int kTilesABlock = 1 << kTilesLog2;
static_assert(kTilesABlock * kTileLanes == kTileThreads);

// What a thread sums. Phase is -1 for the convolution, for its transpose padding modulo stride.
//
// Issue slots an output, by count: each source takes a load and two conversions, each tap two FMAs
// and weights that are not in registers a load a row of targets. 4 x 7 targets at stride 1: 15.1
// (3x3), 32.9 (5x5), 60.8 (7x7). Seven columns, because networks have maps of 7 to 224 pixels, and
// because 7 pixels of 64 bytes take the two halves of a warp to different banks.
struct DepthwiseTile {
  int rows, columns;                // targets
  int source_rows, source_columns;  // that they meet
  int step_rows, step_columns;      // from a tile's sources to those of its neighbour
  int first;                        // transposed: the first source, from that of the first target
};

FASTCONV_INLINE constexpr DepthwiseTile depthwise_tile(int kernel, int stride, int phase) {
  if (phase < 0) {
    const int rows = stride == 1 ? 4 : 2, columns = 7;
    return {rows,
            columns,
            (rows - 1) * stride + kernel,
            (columns - 1) * stride + kernel,
            rows * stride,
            columns * stride,
            0};
  }
  const int rows = stride, columns = 7 * stride;
  const int first = -max_of(kernel - 1 - phase, 0) / stride;
  return {rows,
          columns,
          (phase + rows - 1) / stride - first + 1,
          (phase + columns - 1) / stride - first + 1,
          1,
          7,
          first};
}

// What a thread of the weight gradient sums, whose targets are grad_output's: k x k sums of two
// channels and these targets are in registers, four rows of them only for a few sums.
FASTCONV_INLINE constexpr DepthwiseTile depthwise_weight_tile(int kernel, int stride) {
  const int rows = kernel <= 3 && stride == 1 ? 4 : 2, columns = 7;
  return {rows,
          columns,
          (rows - 1) * stride + kernel,
          (columns - 1) * stride + kernel,
          rows * stride,
          columns * stride,
          0};
}

// The tap by which target i meets source r, along either axis; outside of the kernel where none.
FASTCONV_INLINE constexpr int tile_tap(const DepthwiseTile& tile, int stride, int phase, int i,
                                       int r) {
  return phase < 0 ? r - i * stride : phase + i - stride * (r + tile.first);
}

// The source that target i meets by a tap, -1 where none.
FASTCONV_INLINE constexpr int tile_source(const DepthwiseTile& tile, int stride, int phase, int i,
                                          int tap) {
  if (phase < 0) return i * stride + tap;
  const int sum = phase + i - tap - tile.first * stride;
  return sum % stride == 0 ? sum / stride : -1;
}

// How a block's threads share a patch of targets: each half warp has a tile, neighbours in columns
// first, then images, then rows.
struct DepthwiseTiles {
  int columns_log2, images_log2, rows;  // tiles of a block
  int source_rows, source_columns;      // of an image, staged
  int image_pixels;                     // from image to image in shared memory
  Divider across, down;                 // patches of an image
  uint32_t patches;                     // of all images; 0: no arrangement
  Divider channel_blocks;
};

}  // namespace fastconv::cuda
