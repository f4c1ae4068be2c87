// How depthwise_conv2d and its gradients are launched on a GPU.
#pragma once

#include "../depthwise_conv2d.h"
#include "depthwise_conv2d_band.h"
#include "depthwise_conv2d_tile.h"
#include "depthwise_conv2d_window.h"
#include "known.h"

namespace fastconv::cuda {

// The parameters, of this number of channels where that is known.
template <int channels, class Params>
FASTCONV_INLINE decltype(auto) with_channels(const Params& p) {
  return with_known<(channels > 0)>(p, [](Params& copy) {
    constexpr Divider kBlocks = make_divider(div_up(max_of(channels, 1), kTileChannels));
    copy.shape.channels = channels, copy.tiles.channel_blocks = kBlocks;
  });
}

// Weights where the tensor has them: nothing is packed on the way to a GPU.
struct DepthwiseWeight {
  const void* data;  // (out_channels, 1, kernel_h, kernel_w), strides in elements:
  int64_t stride_channel, stride_h, stride_w;
};

// The convolution, or its transpose, which takes the gradient of the output to that of the input:
// both sum products of weights and a window, and differ in which pixel a tap meets.
struct DepthwiseParams {
  DepthwiseConv2dShape shape;  // of the convolution, also where transposed
  bool transposed;
  // Taps from one that meets a pixel to the next that does: 1, but the transpose of a stride skips.
  // See complete().
  int64_t period_h, period_w;
  const void* source;  // (batch, channels, height, width); transposed: as the output
  DepthwiseWeight weight;
  const void* bias;  // (out_channels) or null
  void* target;      // (batch, out_channels, out_height, out_width); transposed: as the input
  Activation activation;
  DepthwiseTiles tiles;  // of channels_last tensors
  PlaneTiles planes;     // of contiguous ones
  BandTiles band;        // of either, where the matrix unit multiplies
  WindowTiles window;    // of either, where the window has no tile

  FASTCONV_INLINE int64_t source_height() const {
    return transposed ? shape.out_height : shape.height;
  }
  FASTCONV_INLINE int64_t source_width() const {
    return transposed ? shape.out_width : shape.width;
  }
  FASTCONV_INLINE int64_t target_channels() const {
    return transposed ? shape.channels : shape.out_channels();
  }
  FASTCONV_INLINE int64_t target_height() const {
    return transposed ? shape.height : shape.out_height;
  }
  FASTCONV_INLINE int64_t target_width() const {
    return transposed ? shape.width : shape.out_width;
  }
};

// The gradient of weight and bias, in two launches: sums over slabs of the output's pixels, then
// their sum in the order of the slabs.
struct DepthwiseWeightParams {
  DepthwiseConv2dShape shape;
  const void* grad_output;  // (batch, out_channels, out_height, out_width)
  const void* input;        // (batch, channels, height, width)
  DepthwiseTiles tiles;     // of grad_output, channels_last; slabs are ranges of patches
  PlaneTiles planes;        // of a contiguous one
  int64_t slabs;
  void* partial;  // (slabs, taps + 1, out_channels) in the accumulation type, the bias last
};

// Both gradients of a convolution of stride 1 in one pass over input and grad_output.
struct DepthwiseGradientsParams {
  // Those of the transpose, a convolution with the weights turned around: it takes grad_output for
  // its input and input for its grad_output. The partial sums are those of the weight as it is.
  DepthwiseWeightParams sums;
  DepthwiseWeight weight;  // turned around
  void* grad_input;        // (batch, channels, height, width)
};

struct DepthwiseWeightSumParams {
  DepthwiseConv2dShape shape;
  const void* partial;
  int64_t slabs;
  void* grad_weight;  // (out_channels, 1, kernel_h, kernel_w), strides in elements:
  int64_t stride_channel, stride_h, stride_w;
  void* grad_bias;  // (out_channels)
};

// Three blocks a multiprocessor by registers: left alone, 64-bit indices take 122 on sm_100.
constexpr int kDepthwiseThreads = 256;

// The sums of a tap over a slab are one thread's where neighbours read neighbouring channels, else
// a warp's. Fewer channels than this would leave lanes idle.
constexpr int kDepthwiseLeastChannels = 16;
constexpr int kDepthwiseSumChannels = 32;  // of a block that sums parts: a warp
constexpr int kDepthwiseSumRows = 8;       // its warps, each with slabs of its own

// The arrangement for the matrix unit, whether a call can take it, and its launch.
BandTiles arrange_band(const DepthwiseConv2dShape& s);
bool takes_band(const DepthwiseParams& p, const Device& device);
Launch band_launch(const DepthwiseParams& p);

// The same for a window of any size on CUDA cores.
WindowTiles arrange_window(const DepthwiseConv2dShape& s);
bool takes_window(const DepthwiseParams& p, const Device& device);
Launch window_launch(const DepthwiseParams& p);

// Fills the periods and the tiles, which follow from the rest.
void complete(DepthwiseParams& p);

// Fills the tiles and the number of slabs: some blocks a multiprocessor, so that one that ends
// early does not leave it idle.
void complete(DepthwiseWeightParams& p, const Device& device);

void complete(DepthwiseGradientsParams& p, const Device& device);

// Whether one pass serves both gradients.
bool takes_gradients(const DepthwiseGradientsParams& p, const Device& device);

Launch plan(const DepthwiseParams& p, const Device& device);
Launch plan(const DepthwiseWeightParams& p, const Device& device);
Launch plan(const DepthwiseGradientsParams& p, const Device& device);
Launch plan(const DepthwiseWeightSumParams& p, const Device& device);

}  // namespace fastconv::cuda
