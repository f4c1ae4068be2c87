#include <numeric>

#include "depthwise_conv2d.h"
#include "plan.h"

namespace fastconv::cuda {

namespace {

// The transpose of stride 1 is a convolution with the weights turned around.
void turn(DepthwiseParams& p) {
  DepthwiseWeight& w = p.weight;
  const DepthwiseConv2dShape& s = p.shape;
  w.data = static_cast<const char*>(w.data) +
           ((s.kernel_h - 1) * w.stride_h + (s.kernel_w - 1) * w.stride_w) * size_of(s.dtype);
  w.stride_h = -w.stride_h, w.stride_w = -w.stride_w;
  p.shape = depthwise_conv2d_transposed(s);
  p.transposed = false;
}

int phase_of(const DepthwiseParams& p) {
  return p.transposed ? int(p.shape.pad_top % p.shape.stride_h) : -1;
}

DepthwiseTile tile_of(const DepthwiseParams& p) {
  return depthwise_tile(int(p.shape.kernel_h), int(p.shape.stride_h), phase_of(p));
}

// Whether tiles are an arrangement for these windows; plan() asks for the memory, too.
bool fits_tiles(const DepthwiseParams& p) {
  const DepthwiseConv2dShape& s = p.shape;
  constexpr int64_t kMost = 1 << 30;
  return s.dtype != DType::kFloat64 && s.multiplier == 1 && s.kernel_h == s.kernel_w &&
         s.kernel_h >= 2 && s.kernel_h <= 7 && s.stride_h == s.stride_w && s.stride_h <= 2 &&
         s.dilation_h == 1 && s.dilation_w == 1 &&
         (!p.transposed || s.pad_top % s.stride_h == s.pad_left % s.stride_w) &&
         max_of(s.height, s.width) < kMost && max_of(s.out_height, s.out_width) < kMost &&
         max_of(s.channels, s.batch) < kMost;
}

// The arrangement of a block's tiles that does the least: threads sum all their targets also where
// the image has fewer, and stage sources that other blocks have, too.
void arrange(DepthwiseParams& p) {
  const DepthwiseTile tile = tile_of(p);
  const int64_t height = p.target_height(), width = p.target_width();
  const int64_t summed = int64_t{kTilesABlock} * tile.rows * tile.columns * p.shape.taps();
  int64_t least = 0;
  for (int columns_log2 = 0; columns_log2 <= kTilesLog2; ++columns_log2) {
    for (int images_log2 = 0; columns_log2 + images_log2 <= kTilesLog2; ++images_log2) {
      const int columns = 1 << columns_log2, images = 1 << images_log2;
      const int rows = kTilesABlock / columns / images;
      DepthwiseTiles t{};
      t.columns_log2 = columns_log2, t.images_log2 = images_log2, t.rows = rows;
      t.source_rows = (rows - 1) * tile.step_rows + tile.source_rows;
      t.source_columns = (columns - 1) * tile.step_columns + tile.source_columns;
      t.image_pixels = t.source_rows * t.source_columns | 1;  // half warps in different banks
      const int64_t across = div_up(width, int64_t{columns} * tile.columns);
      const int64_t down = div_up(height, int64_t{rows} * tile.rows);
      const int64_t channel_blocks = div_up<int64_t>(p.shape.channels, kTileChannels);
      t.channel_blocks = make_divider(channel_blocks);
      t.across = make_divider(across), t.down = make_divider(down);
      t.blocks = channel_blocks * across * down * div_up<int64_t>(p.shape.batch, images);
      constexpr int64_t kStagePixel = 3;  // a copy of a sixteenth of the threads, in taps
      const int64_t work = t.blocks * (summed + kStagePixel * images * t.image_pixels);
      if (least == 0 || work < least) least = work, p.tiles = t;
    }
  }
}

int64_t tile_bytes(const DepthwiseParams& p) {
  const int64_t images = int64_t{1} << p.tiles.images_log2;
  return kTileChannels *
         (p.shape.taps() * 4 + images * p.tiles.image_pixels * size_of(p.shape.dtype));
}

// Tiles of channels_last tensors whose pixels are whole packs of 16 bytes.
bool takes_nhwc_tiles(const DepthwiseParams& p, const Device& device) {
  const int width = pack_width(p.shape.dtype, p.source, p.target);
  return p.shape.layout == Layout::kNHWC && p.tiles.blocks > 0 && width > 1 &&
         p.shape.channels % width == 0 && p.shape.channels >= kTileLanes &&
         tile_bytes(p) <= device.shared_bytes && (device.compiles || p.shape.kernel_h % 2 == 1);
}

}  // namespace

void complete(DepthwiseParams& p) {
  if (p.transposed && depthwise_conv2d_backward_is_forward(p.shape)) turn(p);
  const DepthwiseConv2dShape& s = p.shape;
  p.period_h = p.transposed ? s.stride_h / std::gcd(s.stride_h, s.dilation_h) : 1;
  p.period_w = p.transposed ? s.stride_w / std::gcd(s.stride_w, s.dilation_w) : 1;
  p.tiles = {};
  if (fits_tiles(p)) arrange(p);
}

int64_t depthwise_slabs(const DepthwiseConv2dShape& s, const Device& device) {
  const int64_t wanted = int64_t{8} * device.multiprocessors * kDepthwiseThreads;
  const int64_t threads = (s.taps() + 1) * s.out_channels();
  const int64_t pixels = s.batch * s.out_height * s.out_width;
  constexpr int64_t kLeastPixels = 256;  // of a slab, which writes taps + 1 sums
  return max_of<int64_t>(1, min_of(div_up(wanted, threads), pixels / kLeastPixels));
}

Launch plan(const DepthwiseParams& p, const Device& device) {
  Launch launch{};
  if (takes_nhwc_tiles(p, device)) {
    launch.kernel = Kernel::depthwise_conv2d_nhwc_tile;
    launch.threads = kTileThreads;
    launch.blocks = p.tiles.blocks;
    launch.shared_bytes = int(tile_bytes(p));
    return with_arguments(launch, p.shape.dtype, p.shape.kernel_h, p.shape.stride_h, phase_of(p));
  }
  launch.kernel = Kernel::depthwise_conv2d_any;
  launch.threads = kDepthwiseThreads;
  launch.blocks =
      div_up<int64_t>(p.shape.batch * p.target_channels() * p.target_height() * p.target_width(),
                      kDepthwiseThreads);
  return with_arguments(launch, p.shape.dtype);
}

Launch plan(const DepthwiseWeightParams& p, const Device&) {
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

}  // namespace fastconv::cuda
