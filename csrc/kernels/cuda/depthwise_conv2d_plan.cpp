#include <numeric>

#include "depthwise_conv2d_tile_plan.h"

namespace fastconv::cuda {

namespace {

int phase_of(const DepthwiseParams& p) {
  return p.transposed ? int(p.shape.pad_top % p.shape.stride_h) : -1;
}

int64_t tile_bytes(const DepthwiseParams& p) {
  return staged_bytes(p.tiles, p.shape.dtype) + p.shape.taps() * kTileChannels * 4;
}

int64_t plane_bytes(const DepthwiseParams& p) {
  return staged_bytes(p.planes, p.source_height(), p.source_width(), p.shape.dtype);
}

bool takes_planes(const DepthwiseParams& p, const Device& device) {
  return takes_planes(p.shape, p.planes, plane_bytes(p), device, p.source, p.target);
}

bool takes_tiles(const DepthwiseParams& p, const Device& device) {
  return takes_nhwc_tiles(p.shape, p.tiles, tile_bytes(p), device, p.source, p.target);
}

}  // namespace

void complete(DepthwiseParams& p) {
  if (p.transposed && depthwise_conv2d_backward_is_forward(p.shape)) {
    p.weight = turned(p.weight, p.shape);
    p.shape = depthwise_conv2d_transposed(p.shape);
    p.transposed = false;
  }
  const DepthwiseConv2dShape& s = p.shape;
  p.period_h = p.transposed ? s.stride_h / std::gcd(s.stride_h, s.dilation_h) : 1;
  p.period_w = p.transposed ? s.stride_w / std::gcd(s.stride_w, s.dilation_w) : 1;
  p.tiles = {}, p.planes = {}, p.band = {}, p.window = {};
  if (!p.transposed) p.band = arrange_band(s), p.window = arrange_window(s);
  const bool phases_agree = s.pad_top % s.stride_h == s.pad_left % s.stride_w;
  if (has_tile(s) && (phases_agree || !p.transposed)) {
    const int kernel = int(s.kernel_h), stride = int(s.stride_h), phase = phase_of(p);
    p.tiles =
        arrange(depthwise_tile(kernel, stride, phase), s, p.target_height(), p.target_width());
    p.planes =
        arrange_planes(plane_tile(kernel, stride, phase), s, p.target_height(), p.target_width());
  }
}

Launch plan(const DepthwiseParams& p, const Device& device) {
  const DepthwiseConv2dShape& s = p.shape;
  // Seven by seven is the least that CUDA cores cannot do in the memory's time on an H100; on an
  // H200 that may hold of five by five: by arithmetic, to be timed.
  constexpr int64_t kBandTaps = 49;
  const bool tiled = takes_tiles(p, device) || takes_planes(p, device);
  if (takes_band(p, device) && (s.taps() >= kBandTaps || !tiled)) return band_launch(p);
  if (takes_tiles(p, device)) {
    const int64_t blocks = int64_t{p.tiles.patches} * p.tiles.channel_blocks.divisor;
    return with_arguments(tile_launch(Kernel::depthwise_conv2d_nhwc_tile, blocks, tile_bytes(p)),
                          s.dtype, s.kernel_h, s.stride_h, phase_of(p), known(s.channels, device));
  }
  if (takes_planes(p, device)) {
    return with_arguments(
        tile_launch(Kernel::depthwise_conv2d_nchw_tile, p.planes.patches, plane_bytes(p)), s.dtype,
        s.kernel_h, s.stride_h, phase_of(p));
  }
  if (takes_window(p, device)) return window_launch(p);
  Launch launch{};
  launch.kernel = Kernel::depthwise_conv2d_any;
  launch.threads = kDepthwiseThreads;
  launch.blocks =
      div_up<int64_t>(p.shape.batch * p.target_channels() * p.target_height() * p.target_width(),
                      kDepthwiseThreads);
  return with_arguments(launch, p.shape.dtype);
}

}  // namespace fastconv::cuda
