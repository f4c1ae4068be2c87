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

// Targets that one thread sums, and the sources that they meet.
struct DepthwiseTile {
  int rows, columns;                // targets
  int source_rows, source_columns;  // that they meet
  int step_rows, step_columns;      // from a tile's sources to those of its neighbour
  int first;                        // transposed: the first source, from that of the first target
};

// Phase is -1 for the convolution, for its transpose padding modulo stride; rows and columns are
// then multiples of the stride.
FASTCONV_INLINE constexpr DepthwiseTile make_tile(int rows, int columns, int kernel, int stride,
                                                  int phase) {
  if (phase < 0) {
    const int source_rows = (rows - 1) * stride + kernel;
    const int source_columns = (columns - 1) * stride + kernel;
    return {rows, columns, source_rows, source_columns, rows * stride, columns * stride, 0};
  }
  const int first = -max_of(kernel - 1 - phase, 0) / stride;
  const int source_rows = (phase + rows - 1) / stride - first + 1;
  const int source_columns = (phase + columns - 1) / stride - first + 1;
  return {rows, columns, source_rows, source_columns, rows / stride, columns / stride, first};
}

// Of two channels. Issue slots an output, by count: each source takes a load and two conversions,
// each tap two FMAs, and weights that are not in registers a load a row of targets: 12.6, 30.7 and
// 57.8 at 4 x 7 targets in SASS for 3x3, 5x5 and 7x7, stride 1. Seven columns, because networks
// have maps of 7 to 224 pixels, and because 7 pixels of 64 bytes take the two halves of a warp to
// different banks.
FASTCONV_INLINE constexpr DepthwiseTile depthwise_tile(int kernel, int stride, int phase) {
  if (phase < 0) return make_tile(stride == 1 ? 4 : 2, 7, kernel, stride, phase);
  return make_tile(stride, 7 * stride, kernel, stride, phase);
}

// The weight gradient's, whose targets are grad_output's: k x k sums of two channels and the
// targets are in registers, four rows of them only for a few sums.
FASTCONV_INLINE constexpr DepthwiseTile depthwise_weight_tile(int kernel, int stride) {
  return make_tile(kernel <= 3 && stride == 1 ? 4 : 2, 7, kernel, stride, -1);
}

constexpr int kMostGradientsKernel = 5;  // 7x7: 100 sums alone would be in registers

// Both gradients at once: of the input, where the sums of a tap, of a pixel and the pixel's value
// are in registers.
FASTCONV_INLINE constexpr DepthwiseTile depthwise_gradients_tile(int kernel) {
  return make_tile(2, 7, kernel, 1, -1);
}

// The tap along an axis by which each pixel of grad_output is met by one of the input, so that the
// sums of the bias are the input's tiles' too.
FASTCONV_INLINE constexpr int middle_tap(int kernel) {
  return kernel / 2;
}

// Contiguous tensors: of one plane. The columns are read one by one, so more of them share a load;
// eight would waste half of the lanes on maps of 28 and less.
FASTCONV_INLINE constexpr DepthwiseTile plane_tile(int kernel, int stride, int phase) {
  if (phase < 0) return make_tile(stride == 1 ? 7 : 4, 4, kernel, stride, phase);
  return make_tile(8, 4, kernel, stride, phase);
}

// Both gradients at once: seven rows of 5x5, whose 51 weights and sums are in registers, spill.
FASTCONV_INLINE constexpr DepthwiseTile plane_gradients_tile(int kernel) {
  return make_tile(kernel <= 3 ? 7 : 4, 4, kernel, 1, -1);
}

// Blocks a multiprocessor by registers: 128 a thread, 168 for 7x7, which would spill with 128.
FASTCONV_INLINE constexpr int tile_blocks(int kernel) {
  return kernel <= 5 ? 4 : 3;
}

// Contiguous: k x k weights or sums of one plane, and its targets, are in registers.
FASTCONV_INLINE constexpr int plane_blocks(int kernel) {
  return kernel <= 3 ? 6 : kernel <= 5 ? 5 : 4;
}

// Of both gradients at once.
FASTCONV_INLINE constexpr int gradients_blocks(int kernel) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  return kernel <= 3 ? 4 : 2;  // three would spill two registers
#else
  return kernel <= 3 ? 4 : 3;
#endif
}
FASTCONV_INLINE constexpr int plane_gradients_blocks(int kernel) {
  return kernel <= 3 ? 4 : 3;
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

// The patches of one of `slabs` equal shares; none for a slab beyond them.
struct PatchShare {
  uint32_t first, last;
};

FASTCONV_INLINE constexpr PatchShare share_of(uint32_t patches, int64_t slabs, uint32_t slab) {
  const uint32_t size = div_up(patches, uint32_t(slabs));
  return {slab * size, min_of(patches, (slab + 1) * size)};
}

// How a block's threads share planes of contiguous tensors: some whole ones of an image, or a band
// of rows of one. Either is one run of memory on both sides.
struct PlaneTiles {
  Divider across, down;   // a plane's tiles, of a block
  int planes;             // of a block, 1 where it has a band
  int source_rows;        // of a band
  Divider bands, groups;  // of a plane; groups of planes of an image
  uint32_t patches;       // of all images; 0: no arrangement
};

}  // namespace fastconv::cuda
