// How the targets of a depthwise convolution of stride 1 are cut for the matrix unit. Sixteen pairs
// of rows by eight columns of one channel are two products, one for the first and one for the
// second row of each pair, of the same sources: rows 2i + j and 2i + j + 1 of pair i, for each even
// j, by the weights that these meet. The weights of a row of the kernel are a matrix whose columns
// hold them, each one place below the last: a band (Toeplitz), in blocks of eight by eight.
#pragma once

#include "../common/types.h"
#include "divider.h"

namespace fastconv::cuda {

constexpr int kBandThreads = 128;
constexpr int kBandBlocks = 4;  // a multiprocessor, by registers
constexpr int kBandColumns = 8;
constexpr int kBandPairs = 16;
// Eight of channels_last, which are a pack of 16 bytes, lie farther from the next eight, so that
// the halves of a warp write to different banks.
constexpr int kBandPack = 8, kBandGap = 16;

// Blocks of eight sources by eight targets that the band crosses.
FASTCONV_INLINE constexpr int band_blocks(int64_t reach) {
  return int((reach + 2 * (kBandColumns - 1)) / kBandColumns);
}
constexpr int kBandMostBlocks = 5;
constexpr int kBandMostReach = 33;
static_assert(band_blocks(kBandMostReach) == kBandMostBlocks);

// Steps of two rows of the kernel: the second row of a pair is one behind the first.
FASTCONV_INLINE constexpr int band_steps(int reach) {
  return reach / 2 + 1;
}

// Weights of a channel in shared memory, two a word, among zeros.
constexpr int kBandBefore = kBandColumns;
FASTCONV_INLINE constexpr int band_weight_rows(int reach) {
  return 2 * band_steps(reach) + 1;
}
FASTCONV_INLINE constexpr int band_weight_words(int blocks) {
  return (kBandBefore + blocks * kBandColumns) / 2;
}

// Two sources are a word; those of a row that `tiles` times eight targets meet, and from a row to
// the next of the same parity: an odd number of 16 bytes takes eight rows to different banks.
FASTCONV_INLINE constexpr int band_words(int blocks, int tiles) {
  return (tiles + blocks - 1) * kBandColumns / 2;
}
FASTCONV_INLINE constexpr int band_pitch(int blocks, int tiles) {
  return ((tiles + blocks - 1) | 1) * kBandColumns / 2;
}

// Sources from the first that a target meets to the last, and one more: a dilated kernel is taken
// for a larger one with zeros between its weights.
FASTCONV_INLINE constexpr int64_t band_reach(int64_t kernel, int64_t dilation) {
  return (kernel - 1) * dilation + 1;
}

// A block's patch: 16 pairs of rows of some images, tiles times eight columns, some channels.
struct BandTiles {
  int blocks, tiles;     // template arguments
  int pairs_log2;        // of an image
  int channels_log2;     // of a block
  int reach_h, reach_w;  // of the kernel
  int source_rows;       // of an image, staged
  int odd_rows;          // words of shared memory from an even row to the odd one after it,
  int image_words;       // from image to image
  int plane_words;       // from channel to channel,
  int weights;           // and where the weights begin
  Divider across, down;  // patches of an image
  Divider channel_blocks;
  uint32_t patches;  // of all images; 0: no arrangement
};

}  // namespace fastconv::cuda
