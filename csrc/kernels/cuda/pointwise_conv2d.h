// How pointwise_conv2d and its gradients are launched on a GPU.
#pragma once

#include "../pointwise_conv2d.h"
#include "known.h"
#include "matrix_tile.h"

namespace fastconv::cuda {

// A block of the kernel on CUDA cores makes kSimtPixels x kSimtOuts results, kSimtDepth input
// channels at a time; a thread 8 x 4 of them: 32 FMAs for 3 shared reads of 16 bytes, where the
// reads cost as much time as 24 FMAs.
constexpr int kSimtPixels = 128;
constexpr int kSimtOuts = 64;
constexpr int kSimtDepth = 16;
constexpr int kSimtThreads = 256;

// On the matrix unit a block of four warps takes mma_pixels pixels at a time and as many output
// channels as its template says: all of them up to 128, so that the input is read once. A warp
// makes kMmaWarpRows rows, so that what it reads of the other operand serves two products, and 32
// or 64 columns: as many registers of sums. With 96 all 255 registers did not do.
constexpr int kMmaThreads = 128;
constexpr int kMmaWarpRows = 32;
// Tiles of a chunk on their way or in use: three under way, 4 KiB or more each, and two blocks or
// more a multiprocessor: 24 KiB, where 3 TB/s over 700 ns and 132 of them take 16.
constexpr int kMmaStages = 4;
// The weight stays in shared memory where it fits, and leaves room for two blocks; else its chunks
// come with those of the input.
constexpr int kMmaPanelBytes = 64 << 10;

FASTCONV_INLINE constexpr int mma_pixels(int outs) {
  return outs > 64 ? 64 : 128;
}
// Blocks a multiprocessor, by the registers that the compiler then keeps to without spills: 128 a
// thread with 32 sums, 168 with 64 (NCHW: 210).
FASTCONV_INLINE constexpr int mma_blocks(int layout, int outs) {
  if (outs == 32) return 4;
  return Layout(layout) == Layout::kNHWC ? 3 : 2;
}
FASTCONV_INLINE int64_t mma_chunks(const PointwiseConv2dShape& p) {
  return div_up<int64_t>(p.in_channels, kChunk);
}
FASTCONV_INLINE bool mma_weights_stay(const PointwiseConv2dShape& p, int outs) {
  return mma_chunks(p) * outs * kChunkPitch * 2 <= kMmaPanelBytes;
}

// The parameters, of these channels where they are known.
template <int ins, int outs, class Params>
FASTCONV_INLINE decltype(auto) with_channels(const Params& p) {
  return with_known<(ins > 0 && outs > 0)>(
      p, [](Params& copy) { copy.in_channels = ins, copy.out_channels = outs; });
}

// The weight's gradient, (out, in): kGradTile x kGradTile of it a block, over a part of the pixels.
constexpr int kGradTile = 64;
constexpr int kGradDepth = 16;
constexpr int kGradThreads = 256;

// The same on the matrix unit: a warp makes 32 x 64.
constexpr int kMmaGradOuts = 64;
constexpr int kMmaGradIns = 128;
constexpr int kMmaGradBlocks = 3;  // a multiprocessor: 168 registers a thread, 53 KiB each

constexpr int kElementwiseThreads = 256;

// The first stage of the gradients of weight and bias: sums over `splits` parts of the pixels.
struct PointwiseConv2dPartialParams : PointwiseConv2dWeightGradientParams {
  void* partial;  // (splits, out_channels * in_channels + out_channels), the bias last
  int64_t splits;
};

// The second adds them in order.
struct PointwiseConv2dSumParams : PointwiseConv2dPartialParams {};

// Tiles of the weight's gradient; one column of them where only the bias has one.
struct GradTiles {
  int64_t outs, ins;
};
FASTCONV_INLINE GradTiles grad_tiles(const PointwiseConv2dWeightGradientParams& p) {
  const bool mma = size_of(p.dtype) == 2;
  return {div_up<int64_t>(p.out_channels, mma ? kMmaGradOuts : kGradTile),
          p.grad_weight ? div_up<int64_t>(p.in_channels, mma ? kMmaGradIns : kGradTile) : 1};
}

// Parts of the pixels that fill the device.
int64_t splits_of(const PointwiseConv2dWeightGradientParams& p, const Device& device);

FASTCONV_INLINE int64_t partial_elements(const PointwiseConv2dShape& p) {
  return p.out_channels * (p.in_channels + 1);
}

// Few pixels leave most multiprocessors without a tile: then blocks sum over parts of the input
// channels, and a second kernel adds the parts in order. The first stage of this:
struct PointwiseConv2dSplitParams : PointwiseConv2dParams {
  void* partial;  // (splits, elements of the output), in its order
  int64_t splits;
};

// The second, with bias, residual and activation.
struct PointwiseConv2dJoinParams : PointwiseConv2dSplitParams {};

template <class Params>
constexpr bool kSplits = false;
template <>
constexpr bool kSplits<PointwiseConv2dSplitParams> = true;

// The channels [begin, end) of a part.
struct Channels {
  int64_t begin, end;
};
FASTCONV_INLINE Channels channels_of(const PointwiseConv2dParams& p, int64_t, int) {
  return {0, p.in_channels};
}
FASTCONV_INLINE Channels channels_of(const PointwiseConv2dSplitParams& p, int64_t split,
                                     int depth) {
  const int64_t size = div_up(div_up(p.in_channels, p.splits), int64_t(depth)) * depth;
  return {min_of(split * size, p.in_channels), min_of((split + 1) * size, p.in_channels)};
}
FASTCONV_INLINE int64_t output_elements(const PointwiseConv2dShape& p) {
  return p.batch * p.height * p.width * p.out_channels;
}

// 1 where the sums are better made in one go.
int64_t splits_of(const PointwiseConv2dParams& p, const Device& device);

Launch plan(const PointwiseConv2dParams& p, const Device& device);
Launch plan(const PointwiseConv2dSplitParams& p, const Device& device);
Launch plan(const PointwiseConv2dJoinParams& p, const Device& device);
Launch plan(const PointwiseConv2dPartialParams& p, const Device& device);
Launch plan(const PointwiseConv2dSumParams& p, const Device& device);
Launch plan(const PointwiseConv2dSpreadParams& p, const Device& device);

}  // namespace fastconv::cuda
