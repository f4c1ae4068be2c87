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

Launch plan_mma(const PointwiseConv2dParams& p, const Device& device) {
  const int width = width_of(p, p.input, p.residual, p.output), outs = mma_outs(p, width, device),
            layout = int(p.layout);
  const int64_t chunks = mma_chunks(p);
  const int64_t input_row = p.layout == Layout::kNHWC ? kChunkPitch : mma_pixels(outs) + kTileGap;
  const int64_t input_rows = p.layout == Layout::kNHWC ? mma_pixels(outs) : kChunk;
  const int64_t weights = mma_weights_stay(p, outs) ? chunks : kMmaStages;
  Launch launch{};
  launch.kernel = Kernel::pointwise_conv2d_mma;
  launch.threads = kMmaThreads;
  launch.shared_bytes =
      int(2 * (kMmaStages * input_row * input_rows + weights * outs * kChunkPitch));
  // As many blocks as run at once.
  const int64_t out_tiles = div_up<int64_t>(p.out_channels, outs);
  const int64_t pixel_tiles = div_up<int64_t>(pixels_of(p), mma_pixels(outs));
  const int64_t at_once =
      min_of(mma_blocks(layout, outs), device.shared_bytes / launch.shared_bytes);
  const int64_t lanes =
      div_up<int64_t>(max_of<int64_t>(at_once, 1) * device.multiprocessors, out_tiles);
  launch.blocks = out_tiles * min_of(pixel_tiles, lanes);
  return with_template(launch, p, device, layout, width, outs);
}

}  // namespace

Launch plan(const PointwiseConv2dParams& p, const Device& device) {
  if (size_of(p.dtype) == 2) return plan_mma(p, device);
  Launch launch{};
  launch.kernel = Kernel::pointwise_conv2d_simt;
  launch.threads = kSimtThreads;
  launch.blocks =
      div_up<int64_t>(pixels_of(p), kSimtPixels) * div_up<int64_t>(p.out_channels, kSimtOuts);
  launch.shared_bytes = kSimtDepth * ((kSimtPixels + kSimtOuts) * int(size_of(p.dtype)) + 2 * 16);
  return with_template(launch, p, device, p.layout,
                       p.dtype == DType::kFloat32 ? width_of(p, p.input, p.residual, p.output) : 1);
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
