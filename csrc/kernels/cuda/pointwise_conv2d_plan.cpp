#include "plan.h"
#include "pointwise_conv2d.h"

namespace fastconv::cuda {

namespace {

// Elements of a 16-byte access along the axis that is contiguous, or 1 where some access would not
// be aligned.
template <class... Pointers>
int width_of(const PointwiseConv2dShape& p, const Pointers*... pointers) {
  const int wide = pack_width(p.dtype, pointers...);
  const bool whole = p.layout == Layout::kNHWC
                         ? p.in_channels % wide == 0 && p.out_channels % wide == 0
                         : p.height * p.width % wide == 0 && !is_subsampled(p);
  return whole ? wide : 1;
}

// The template's arguments: the type first, the channels last.
template <class... Ints>
Launch with_template(const Launch& launch, const PointwiseConv2dShape& p, const Device& device,
                     Ints... values) {
  return with_arguments(launch, p.dtype, values..., known(p.in_channels, device),
                        known(p.out_channels, device));
}

// Output channels a block: one block's worth where they fit, else what leaves the fewest columns
// empty; fewer where the multiprocessors would not have a block each.
int mma_outs(const PointwiseConv2dParams& p, int width, const Device& device) {
  constexpr int kNchw[] = {64, 128}, kNhwc[] = {32, 64, 128}, kNarrow[] = {64};
  const auto choose = [&](const auto& choices) {
    int best = choices[0];
    for (int outs : choices) {
      const int64_t tiles = div_up<int64_t>(p.out_channels, outs);
      const int64_t best_tiles = div_up<int64_t>(p.out_channels, best);
      if (tiles * div_up<int64_t>(pixels_of(p), mma_pixels(outs)) < device.multiprocessors) break;
      const bool more = tiles == 1 ? best_tiles > 1 : tiles * outs <= best_tiles * best;
      if (more) best = outs;
    }
    return best;
  };
  if (width == 1) return choose(kNarrow);
  return p.layout == Layout::kNCHW ? choose(kNchw) : choose(kNhwc);
}

// Of the matrix unit's kernels, which are alike but for the parts of a product in splits.
struct MmaTiles {
  int width, outs;
  int64_t of_outs, of_pixels;
};
MmaTiles mma_tiles(const PointwiseConv2dParams& p, const Device& device) {
  const int width = width_of(p, p.input, p.residual, p.output), outs = mma_outs(p, width, device);
  return {width, outs, div_up<int64_t>(p.out_channels, outs),
          div_up<int64_t>(pixels_of(p), mma_pixels(outs))};
}
// Of the copies that are under way and of `chunks` of the weight.
int mma_shared_bytes(const PointwiseConv2dParams& p, int outs, int64_t chunks) {
  const bool nhwc = p.layout == Layout::kNHWC;
  const int64_t row = nhwc ? kChunkPitch : mma_pixels(outs) + kTileGap;
  const int64_t rows = nhwc ? mma_pixels(outs) : kChunk;
  return int(2 * (kMmaStages * row * rows + chunks * outs * kChunkPitch));
}

Launch plan_mma(const PointwiseConv2dParams& p, const Device& device) {
  const MmaTiles tiles = mma_tiles(p, device);
  const bool stay = mma_weights_stay(p, tiles.outs);
  Launch launch{};
  launch.kernel = Kernel::pointwise_conv2d_mma;
  launch.threads = kMmaThreads;
  launch.shared_bytes = mma_shared_bytes(p, tiles.outs, stay ? mma_chunks(p) : kMmaStages);
  // As many blocks as run at once.
  const int64_t at_once =
      min_of(mma_blocks(int(p.layout), tiles.outs), device.shared_bytes / launch.shared_bytes);
  const int64_t lanes =
      div_up<int64_t>(max_of<int64_t>(at_once, 1) * device.multiprocessors, tiles.of_outs);
  launch.blocks = tiles.of_outs * min_of(tiles.of_pixels, lanes);
  return with_template(launch, p, device, p.layout, tiles.width, tiles.outs);
}

int64_t simt_tiles(const PointwiseConv2dParams& p) {
  return div_up<int64_t>(pixels_of(p), kSimtPixels) * div_up<int64_t>(p.out_channels, kSimtOuts);
}
int simt_width(const PointwiseConv2dParams& p) {
  return p.dtype == DType::kFloat32 ? width_of(p, p.input, p.residual, p.output) : 1;
}

Launch plan_simt(const PointwiseConv2dParams& p) {
  Launch launch{};
  launch.kernel = Kernel::pointwise_conv2d_simt;
  launch.threads = kSimtThreads;
  launch.blocks = simt_tiles(p);
  launch.shared_bytes = kSimtDepth * ((kSimtPixels + kSimtOuts) * int(size_of(p.dtype)) + 2 * 16);
  return launch;
}

}  // namespace

// A block that is alone on its multiprocessor waits for memory: by arithmetic, of 700 ns a round
// trip, some 230 for a chunk on the matrix unit, three of which are under way, and 900 for a step
// on CUDA cores, where one is. A second launch and what it reads take some 2500: half of what must
// be saved, for none of this was timed.
int64_t splits_of(const PointwiseConv2dParams& p, const Device& device) {
  constexpr int64_t kMmaChunk = 230, kSimtStep = 900, kLeastSaved = 5000;
  const bool mma = size_of(p.dtype) == 2;
  const MmaTiles tiles = mma_tiles(p, device);
  const int64_t blocks = mma ? tiles.of_outs * tiles.of_pixels : simt_tiles(p);
  const int64_t steps = div_up<int64_t>(p.in_channels, mma ? kChunk : kSimtDepth);
  // A part has a chunk for each stage that is under way.
  const int64_t most = mma ? div_up<int64_t>(steps, kMmaStages - 1) : steps;
  const int64_t wanted = min_of(device.multiprocessors / blocks, most);
  if (wanted < 2) return 1;
  const int64_t each = div_up(steps, wanted);
  const bool pays = (steps - each) * (mma ? kMmaChunk : kSimtStep) >= kLeastSaved;
  return pays ? div_up(steps, each) : 1;
}

Launch plan(const PointwiseConv2dParams& p, const Device& device) {
  if (size_of(p.dtype) == 2) return plan_mma(p, device);
  return with_template(plan_simt(p), p, device, p.layout, simt_width(p));
}

// Of known channels it would wait for memory as long: not worth a compilation for each.
Launch plan(const PointwiseConv2dSplitParams& p, const Device& device) {
  if (size_of(p.dtype) != 2) {
    Launch launch = plan_simt(p);
    launch.kernel = Kernel::pointwise_conv2d_split_simt;
    launch.blocks *= p.splits;
    return with_arguments(launch, p.dtype, p.layout, simt_width(p));
  }
  const MmaTiles tiles = mma_tiles(p, device);
  Launch launch{};
  launch.kernel = Kernel::pointwise_conv2d_split_mma;
  launch.threads = kMmaThreads;
  launch.blocks = p.splits * tiles.of_outs * tiles.of_pixels;
  launch.shared_bytes = mma_shared_bytes(p, tiles.outs, kMmaStages);
  return with_arguments(launch, p.dtype, p.layout, tiles.width, tiles.outs);
}

Launch plan(const PointwiseConv2dJoinParams& p, const Device&) {
  Launch launch{};
  launch.kernel = Kernel::pointwise_conv2d_join;
  launch.threads = kElementwiseThreads;
  launch.blocks = div_up<int64_t>(output_elements(p), kElementwiseThreads);
  return with_arguments(launch, p.dtype, p.layout);
}

int64_t splits_of(const PointwiseConv2dWeightGradientParams& p, const Device& device) {
  const auto [outs, ins] = grad_tiles(p);
  // A part of fewer pixels would write about as much as it reads: 64 x 64 sums of 4 bytes for
  // 2 x 64 x pixels elements of 2.
  constexpr int64_t kFewestPixels = 256;
  const int64_t wanted = div_up<int64_t>(kMmaGradBlocks * device.multiprocessors, outs * ins);
  return max_of<int64_t>(1, min_of(wanted, pixels_of(p) / kFewestPixels));
}

Launch plan(const PointwiseConv2dPartialParams& p, const Device& device) {
  const auto [outs, ins] = grad_tiles(p);
  Launch launch{};
  launch.blocks = p.splits * outs * ins;
  if (size_of(p.dtype) != 2) {
    launch.kernel = Kernel::pointwise_conv2d_weight_gradient_simt;
    launch.threads = kGradThreads;
    launch.shared_bytes = 2 * kGradDepth * (kGradTile * int(size_of(p.dtype)) + 16);
    return with_template(launch, p, device, p.layout);
  }
  const bool nhwc = p.layout == Layout::kNHWC;
  constexpr int kLines = kMmaGradOuts + kMmaGradIns;
  const int elements = nhwc ? kChunk * (kLines + 2 * kTileGap) : kLines * kChunkPitch;
  launch.kernel = Kernel::pointwise_conv2d_weight_gradient_mma;
  launch.threads = kMmaThreads;
  launch.shared_bytes = 2 * kMmaStages * elements;
  // Of known channels it has but 2 % fewer instructions, not worth a compilation for each.
  return with_arguments(launch, p.dtype, p.layout, width_of(p, p.input, p.grad_output));
}

Launch plan(const PointwiseConv2dSumParams& p, const Device& device) {
  Launch launch{};
  launch.kernel = Kernel::pointwise_conv2d_weight_gradient_sum;
  launch.threads = kElementwiseThreads;
  launch.blocks = div_up<int64_t>(partial_elements(p), kElementwiseThreads);
  return with_template(launch, p, device);
}

Launch plan(const PointwiseConv2dSpreadParams& p, const Device& device) {
  Launch launch{};
  launch.kernel = Kernel::pointwise_conv2d_spread;
  launch.threads = kElementwiseThreads;
  launch.blocks =
      div_up<int64_t>(p.batch * p.in_channels * p.in_height * p.in_width, kElementwiseThreads);
  return with_template(launch, p, device);
}

}  // namespace fastconv::cuda
