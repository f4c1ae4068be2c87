// What the plans of the tile kernels share: arrangements of tiles, and whether a call can take
// them.
#pragma once

#include "depthwise_conv2d.h"
#include "plan.h"

namespace fastconv::cuda {

// Whether a thread's tile is compiled for this window, or can be.
bool has_tile(const DepthwiseConv2dShape& s);

// The weights of the transpose of stride 1, which is a convolution with the weights turned around.
DepthwiseWeight turned(DepthwiseWeight weight, const DepthwiseConv2dShape& s);

// The arrangement of a block's tiles that does the least: threads sum all their targets also where
// the image has fewer, and stage sources that other blocks have, too.
DepthwiseTiles arrange(const DepthwiseTile& tile, const DepthwiseConv2dShape& s, int64_t height,
                       int64_t width);

// Whole planes where a block has threads for them, else bands of rows.
PlaneTiles arrange_planes(const DepthwiseTile& tile, const DepthwiseConv2dShape& s, int64_t height,
                          int64_t width);

int64_t staged_bytes(const PlaneTiles& t, int64_t height, int64_t width, DType dtype);
int64_t staged_bytes(const DepthwiseTiles& t, DType dtype);

// Tiles of channels_last tensors whose pixels are whole packs of 16 bytes.
bool takes_nhwc_tiles(const DepthwiseConv2dShape& s, const DepthwiseTiles& t, int64_t bytes,
                      const Device& device, const void* a, const void* b);

bool takes_planes(const DepthwiseConv2dShape& s, const PlaneTiles& t, int64_t bytes,
                  const Device& device, const void* a, const void* b);

Launch tile_launch(Kernel kernel, int64_t blocks, int64_t shared_bytes);

}  // namespace fastconv::cuda
