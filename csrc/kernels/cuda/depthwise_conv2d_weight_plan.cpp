#include <utility>

#include "depthwise_conv2d_tile_plan.h"

namespace fastconv::cuda {

namespace {

// The sums of all warps take the place of the sources.
int64_t tile_bytes(const DepthwiseWeightParams& p) {
  return max_of(staged_bytes(p.tiles, p.shape.dtype),
                (p.shape.taps() + 1) * kTileThreads / 32 * kTileChannels * 4);
}

// The sums of all threads take the place of the sources.
int64_t plane_bytes(const DepthwiseWeightParams& p) {
  return max_of(staged_bytes(p.planes, p.shape.height, p.shape.width, p.shape.dtype),
                (p.shape.taps() + 1) * kTileThreads * 4);
}

bool takes_planes(const DepthwiseWeightParams& p, const Device& device) {
  return takes_planes(p.shape, p.planes, plane_bytes(p), device, p.grad_output, p.input);
}

bool takes_tiles(const DepthwiseWeightParams& p, const Device& device) {
  return takes_nhwc_tiles(p.shape, p.tiles, tile_bytes(p), device, p.grad_output, p.input);
}

// The weights, then what the sums need.
int64_t tile_bytes(const DepthwiseGradientsParams& p) {
  return p.sums.shape.taps() * kTileChannels * 4 + tile_bytes(p.sums);
}

bool takes_tiles(const DepthwiseGradientsParams& p, const Device& device) {
  const DepthwiseWeightParams& q = p.sums;
  return pack_width(q.shape.dtype, p.grad_input) > 1 &&
         takes_nhwc_tiles(q.shape, q.tiles, tile_bytes(p), device, q.grad_output, q.input);
}

bool takes_planes(const DepthwiseGradientsParams& p, const Device& device) {
  return pack_width(p.sums.shape.dtype, p.grad_input) > 1 && takes_planes(p.sums, device);
}

// Slabs of patches for each of `beside` blocks, none empty.
int64_t slabs_of(const Device& device, int64_t patches, int64_t beside) {
  constexpr int64_t kBlocks = 8;  // a multiprocessor: about twice as many as are there at a time
  const int64_t wanted = div_up(kBlocks * device.multiprocessors, beside);
  return div_up(patches, div_up(patches, wanted));
}

int64_t slabs_of(const Device& device, const DepthwiseTiles& t) {
  return slabs_of(device, t.patches, t.channel_blocks.divisor);
}

int64_t slabs_of(const Device& device, const PlaneTiles& t) {
  return slabs_of(device, t.patches / t.groups.divisor, t.groups.divisor);
}

}  // namespace

void complete(DepthwiseWeightParams& p, const Device& device) {
  const DepthwiseConv2dShape& s = p.shape;
  p.tiles = {}, p.planes = {};
  if (has_tile(s)) {
    const int kernel = int(s.kernel_h), stride = int(s.stride_h);
    p.tiles = arrange(depthwise_weight_tile(kernel, stride), s, s.out_height, s.out_width);
    p.planes = arrange_planes(plane_tile(kernel, stride, -1), s, s.out_height, s.out_width);
  }
  if (takes_tiles(p, device)) {
    p.slabs = slabs_of(device, p.tiles);
    return;
  }
  if (takes_planes(p, device)) {
    p.slabs = slabs_of(device, p.planes);
    return;
  }
  const int64_t wanted = int64_t{8} * device.multiprocessors * kDepthwiseThreads;
  const int64_t pixels = s.batch * s.out_height * s.out_width;
  constexpr int64_t kLeastPixels = 256;  // of a slab, which writes taps + 1 sums
  const int64_t threads = (s.taps() + 1) * s.out_channels();
  p.slabs = max_of<int64_t>(1, min_of(div_up(wanted, threads), pixels / kLeastPixels));
}

void complete(DepthwiseGradientsParams& p, const Device& device) {
  DepthwiseWeightParams& q = p.sums;
  p.weight = turned(p.weight, q.shape);
  q.shape = depthwise_conv2d_transposed(q.shape);
  std::swap(q.grad_output, q.input);
  const DepthwiseConv2dShape& s = q.shape;
  q.tiles = {}, q.planes = {}, q.slabs = 0;
  if (!has_tile(s) || s.kernel_h > kMostGradientsKernel || s.stride_h > 1) return;
  // Else some pixels of grad_output would be missing from the bias's gradient.
  const int middle = middle_tap(int(s.kernel_h));
  if (middle > s.pad_top || s.height + s.pad_top - middle > s.out_height) return;
  if (middle > s.pad_left || s.width + s.pad_left - middle > s.out_width) return;
  const int kernel = int(s.kernel_h);
  q.tiles = arrange(depthwise_gradients_tile(kernel), s, s.out_height, s.out_width);
  q.planes = arrange_planes(plane_gradients_tile(kernel), s, s.out_height, s.out_width);
  if (takes_tiles(p, device)) {
    q.slabs = slabs_of(device, q.tiles);
  } else if (takes_planes(p, device)) {
    q.slabs = slabs_of(device, q.planes);
  }
}

bool takes_gradients(const DepthwiseGradientsParams& p, const Device& device) {
  return takes_tiles(p, device) || takes_planes(p, device);
}

Launch plan(const DepthwiseWeightParams& p, const Device& device) {
  if (takes_tiles(p, device)) {
    const int64_t blocks = p.slabs * p.tiles.channel_blocks.divisor;
    return with_arguments(
        tile_launch(Kernel::depthwise_conv2d_weight_nhwc_tile, blocks, tile_bytes(p)),
        p.shape.dtype, p.shape.kernel_h, p.shape.stride_h, known(p.shape.channels, device));
  }
  if (takes_planes(p, device)) {
    return with_arguments(tile_launch(Kernel::depthwise_conv2d_weight_nchw_tile,
                                      p.slabs * p.planes.groups.divisor, plane_bytes(p)),
                          p.shape.dtype, p.shape.kernel_h, p.shape.stride_h);
  }
  const bool by_channel =
      p.shape.layout == Layout::kNHWC && p.shape.out_channels() >= kDepthwiseLeastChannels;
  const int lanes = by_channel ? 1 : 32;
  Launch launch{};
  launch.kernel = Kernel::depthwise_conv2d_weight_any;
  launch.threads = kDepthwiseThreads;
  launch.blocks = div_up<int64_t>(p.slabs * (p.shape.taps() + 1) * p.shape.out_channels() * lanes,
                                  kDepthwiseThreads);
  return with_arguments(launch, p.shape.dtype, lanes);
}

Launch plan(const DepthwiseWeightSumParams& p, const Device&) {
  Launch launch{};
  launch.kernel = Kernel::depthwise_conv2d_weight_sum;
  launch.threads = kDepthwiseSumChannels * kDepthwiseSumRows;
  launch.blocks =
      (p.shape.taps() + 1) * div_up<int64_t>(p.shape.out_channels(), kDepthwiseSumChannels);
  launch.shared_bytes = launch.threads * (p.shape.dtype == DType::kFloat64 ? 8 : 4);
  return with_arguments(launch, p.shape.dtype);
}

Launch plan(const DepthwiseGradientsParams& p, const Device& device) {
  const DepthwiseWeightParams& q = p.sums;
  if (takes_tiles(p, device)) {
    const int64_t blocks = q.slabs * q.tiles.channel_blocks.divisor;
    return with_arguments(
        tile_launch(Kernel::depthwise_conv2d_gradients_nhwc_tile, blocks, tile_bytes(p)),
        q.shape.dtype, q.shape.kernel_h, known(q.shape.channels, device));
  }
  return with_arguments(tile_launch(Kernel::depthwise_conv2d_gradients_nchw_tile,
                                    q.slabs * q.planes.groups.divisor, plane_bytes(q)),
                        q.shape.dtype, q.shape.kernel_h);
}

}  // namespace fastconv::cuda
