// The projection of a fused block: pixels of one image from panels into the output.
#pragma once

#include "../inverted_residual.h"
#include "gemm.h"
#include "inverted_residual_hidden.h"

namespace fastconv::FASTCONV_ISA {

struct Projection {
  const float* hidden;   // [panel][pixel][kHiddenPanel]
  int64_t panel;         // elements from a panel to the next
  int64_t first, count;  // pixels, over all images
};

// Register tiles of pixels to a call of the matrix product.
constexpr int64_t kGroupTiles = 4;

// Groups of pixels that one call of the matrix product takes.
FASTCONV_INLINE int64_t pixel_groups(int64_t pixels) {
  return div_up<int64_t>(pixels, kGroupTiles * kTileRows);
}

FASTCONV_INLINE int64_t projection_tiles(const InvertedResidualShape& s, int64_t pixels) {
  return pixel_groups(pixels) * panel_count<float>(s.out_channels);
}

// Tiles [begin, end) of projection_tiles(p, from.count).
void project(const InvertedResidualParams& p, const Projection& from, int64_t begin, int64_t end);

}  // namespace fastconv::FASTCONV_ISA
