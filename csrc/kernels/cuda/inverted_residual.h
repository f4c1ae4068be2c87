// How the fused inverted residual and separable blocks are launched on a GPU.
#pragma once

#include "../inverted_residual.h"
#include "known.h"
#include "matrix_tile.h"
#include "weight_tile.h"

namespace fastconv::cuda {

// A block makes a rectangle of up to kBlockPixels output pixels, 16 rows of the projection a warp,
// from up to kBlockHalo pixels of the input, 32 rows of the expansion a warp.
constexpr int kBlockThreads = 256;
constexpr int kBlockPixels = 128;
constexpr int kBlockHalo = 256;
// Thread blocks a multiprocessor: 128 registers a thread do for 32 sums and the 18 weights of a
// thread's two 3 x 3 filters.
FASTCONV_INLINE constexpr int fused_blocks(int kernel, int outs) {
  return kernel <= 3 && outs <= 32 ? 2 : 1;
}
// Outputs in a row that a thread of the depthwise part makes: the input columns they share are
// converted once.
constexpr int kBlockStrip = 4;
// Weights come again for each rectangle, and images of 7 x 7 would fill a third of one: there the
// parts move less.
constexpr int64_t kBlockSmallMap = 7 * 7;

struct InvertedResidualBlockParams : InvertedResidualShape {
  const void* input;             // (batch, in_channels, height, width), channels_last
  WeightMatrix expand, project;  // expand is missing without expansion
  const void* depthwise_weight;  // (hidden, 1, kernel_h, kernel_w), strides in elements:
  int64_t stride_channel, stride_row, stride_column;
  const void *expand_bias, *depthwise_bias, *project_bias;  // or null
  const void* residual;                                     // as output, or null
  void* output;  // (batch, out_channels, out_height, out_width), channels_last
  Activation activation, project_activation;
  int tile_h, tile_w;  // of the output; see complete()
};

// The parameters, of these channels where they are known.
template <int ins, int hidden, int outs, class Params>
FASTCONV_INLINE decltype(auto) with_channels(const Params& p) {
  return with_known<(ins > 0 && hidden > 0 && outs > 0)>(p, [](Params& copy) {
    copy.in_channels = copy.expand.ins = ins;
    copy.hidden = copy.expand.outs = copy.project.ins = hidden;
    copy.out_channels = copy.project.outs = outs;
  });
}

FASTCONV_INLINE int halo_of(int64_t outputs, int64_t kernel, int64_t stride, int64_t dilation) {
  return int((outputs - 1) * stride + (kernel - 1) * dilation + 1);
}

// Fills the tile's sizes; false where the fused kernel does not serve, or loses to the parts.
bool complete(InvertedResidualBlockParams& p, const Device& device);

Launch plan(const InvertedResidualBlockParams& p, const Device& device);

}  // namespace fastconv::cuda
