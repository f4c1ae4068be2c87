// How a block's threads share planes where the window is of any size: its taps are a loop. A
// dilated window meets each of dilation_h x dilation_w interleaved images by itself, as one that is
// not dilated; the sizes here are those of such an image, of all others the largest.
#pragma once

#include "../common/types.h"
#include "divider.h"

namespace fastconv::cuda {

constexpr int kWindowThreads = 256;
// A thread sums two rows of eight targets. Eight taps of both take 128 FMAs and six shared reads of
// 16 bytes, four of them mostly the same for all lanes.
constexpr int kWindowRows = 2;
constexpr int kWindowColumns = 8;
constexpr int kWindowTaps = 8;  // that a thread does at a time, of a row of the window

struct WindowTiles {
  Divider across, down;                // a plane's tiles, of a block
  int planes;                          // of a block; channels_last a power of two, at most 32
  int source_rows;                     // staged, of a plane
  int chunks;                          // of kWindowTaps, of a row of the window
  Divider pitch;                       // elements from row to row of what is staged
  Divider phases_across, phases_down;  // interleaved images
  Divider bands, groups;               // of a plane; groups of planes of an image
  Divider by_source_rows, by_window_rows, by_window_columns, multiplier;
  int64_t patches;  // of all images; 0: no arrangement

  FASTCONV_INLINE int weights(int64_t kernel_h) const {  // of a plane
    return int(kernel_h) * chunks * kWindowTaps;
  }
  FASTCONV_INLINE int sources() const { return source_rows * int(pitch.divisor); }
};

}  // namespace fastconv::cuda
