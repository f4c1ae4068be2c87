// How pointwise_conv2d and its gradients are launched on a GPU.
#pragma once

#include "../pointwise_conv2d.h"
#include "launch.h"

namespace fastconv::cuda {

// A block of the kernel on CUDA cores makes kSimtPixels x kSimtOuts results, kSimtDepth input
// channels at a time; a thread 8 x 4 of them: 32 FMAs for 3 shared reads of 16 bytes, where the
// reads cost as much time as 24 FMAs.
constexpr int kSimtPixels = 128;
constexpr int kSimtOuts = 64;
constexpr int kSimtDepth = 16;
constexpr int kSimtThreads = 256;

// The weight's gradient, (out, in): kGradTile x kGradTile of it a block, over a part of the pixels.
constexpr int kGradTile = 64;
constexpr int kGradDepth = 16;
constexpr int kGradThreads = 256;

constexpr int kElementwiseThreads = 256;

// The first stage of the gradients of weight and bias: sums over `splits` parts of the pixels.
struct PointwiseConv2dPartialParams : PointwiseConv2dWeightGradientParams {
  void* partial;  // (splits, out_channels * in_channels + out_channels), the bias last
  int64_t splits;
};

// The second adds them in order.
struct PointwiseConv2dSumParams : PointwiseConv2dPartialParams {};

// Parts of the pixels that fill the device.
int64_t splits_of(const PointwiseConv2dWeightGradientParams& p, const Device& device);

FASTCONV_INLINE int64_t partial_elements(const PointwiseConv2dShape& p) {
  return p.out_channels * (p.in_channels + 1);
}

Launch plan(const PointwiseConv2dParams& p, const Device& device);
Launch plan(const PointwiseConv2dPartialParams& p, const Device& device);
Launch plan(const PointwiseConv2dSumParams& p, const Device& device);
Launch plan(const PointwiseConv2dSpreadParams& p, const Device& device);

}  // namespace fastconv::cuda
