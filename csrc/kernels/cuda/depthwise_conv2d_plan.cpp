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

constexpr int64_t kMostSize = 1 << 30;  // and columns, batch, ...: what an int holds

// Whether a thread's tile is compiled for this window, or can be.
bool has_tile(const DepthwiseConv2dShape& s) {
  return s.dtype != DType::kFloat64 && s.multiplier == 1 && s.kernel_h == s.kernel_w &&
         s.kernel_h >= 2 && s.kernel_h <= 7 && s.stride_h == s.stride_w && s.stride_h <= 2 &&
         s.dilation_h == 1 && s.dilation_w == 1 && max_of(s.height, s.width) < kMostSize &&
         max_of(s.out_height, s.out_width) < kMostSize && max_of(s.channels, s.batch) < kMostSize;
}

// The arrangement of a block's tiles that does the least: threads sum all their targets also where
// the image has fewer, and stage sources that other blocks have, too.
DepthwiseTiles arrange(const DepthwiseTile& tile, const DepthwiseConv2dShape& s, int64_t height,
                       int64_t width) {
  const int64_t summed = int64_t{kTilesABlock} * tile.rows * tile.columns * s.taps();
  DepthwiseTiles best{};
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
      const int64_t patches = across * down * div_up<int64_t>(s.batch, images);
      constexpr int64_t kCopy = 3;  // the cost of staging a pixel, in taps
      const int64_t work = patches * (summed + kCopy * images * t.image_pixels);
      if (patches >= 1u << 31 || (least > 0 && work >= least)) continue;
      t.across = make_divider(across), t.down = make_divider(down);
      t.patches = uint32_t(patches);
      t.channel_blocks = make_divider(div_up<int64_t>(s.channels, kTileChannels));
      least = work, best = t;
    }
  }
  return best;
}

// Whole planes where a block has threads for them, else bands of rows.
PlaneTiles arrange_planes(const DepthwiseTile& tile, const DepthwiseConv2dShape& s, int64_t height,
                          int64_t width) {
  PlaneTiles t{};
  const int64_t across = div_up(width, int64_t{tile.columns});
  const int64_t tiles = div_up(height, int64_t{tile.rows});
  if (across > kTileThreads || tiles > kMostSize || s.height * s.width > kMostSize) return t;
  const int64_t bands = div_up(tiles, kTileThreads / across), down = div_up(tiles, bands);
  t.planes = bands > 1 ? 1 : int(min_of(kTileThreads / (across * down), s.channels));
  const int64_t groups = div_up<int64_t>(s.channels, t.planes);
  t.across = make_divider(across), t.down = make_divider(down);
  t.bands = make_divider(bands), t.groups = make_divider(groups);
  t.source_rows = int(down - 1) * tile.step_rows + tile.source_rows;
  const int64_t patches = bands * groups * s.batch;
  t.patches = patches < int64_t{1} << 31 ? uint32_t(patches) : 0;
  return t;
}

int64_t staged_bytes(const PlaneTiles& t, int64_t height, int64_t width, DType dtype) {
  const int64_t rows = t.bands.divisor == 1 ? t.planes * height : t.source_rows;
  constexpr int64_t kEnds = 32;  // packs of 16 bytes begin and end outside
  return rows * width * size_of(dtype) + kEnds;
}

int64_t staged_bytes(const DepthwiseTiles& t, DType dtype) {
  return (int64_t{t.image_pixels} << t.images_log2) * kTileChannels * size_of(dtype);
}

int64_t tile_bytes(const DepthwiseParams& p) {
  return staged_bytes(p.tiles, p.shape.dtype) + p.shape.taps() * kTileChannels * 4;
}

// The sums of all warps take the place of the sources.
int64_t tile_bytes(const DepthwiseWeightParams& p) {
  return max_of(staged_bytes(p.tiles, p.shape.dtype),
                (p.shape.taps() + 1) * kTileThreads / 32 * kTileChannels * 4);
}

// Tiles of channels_last tensors whose pixels are whole packs of 16 bytes.
bool takes_nhwc_tiles(const DepthwiseConv2dShape& s, const DepthwiseTiles& t, int64_t bytes,
                      const Device& device, const void* a, const void* b) {
  const int width = pack_width(s.dtype, a, b);
  return s.layout == Layout::kNHWC && t.patches > 0 && width > 1 && s.channels % width == 0 &&
         s.channels >= kTileLanes && bytes <= device.shared_bytes &&
         (device.compiles || s.kernel_h % 2 == 1);
}

bool takes_planes(const DepthwiseConv2dShape& s, const PlaneTiles& t, int64_t bytes,
                  const Device& device, const void* a, const void* b) {
  return s.layout == Layout::kNCHW && t.patches > 0 && pack_width(s.dtype, a, b) > 1 &&
         bytes <= device.shared_bytes && (device.compiles || s.kernel_h % 2 == 1);
}

int64_t plane_bytes(const DepthwiseParams& p) {
  return staged_bytes(p.planes, p.source_height(), p.source_width(), p.shape.dtype);
}

// The sums of all threads take the place of the sources.
int64_t plane_bytes(const DepthwiseWeightParams& p) {
  return max_of(staged_bytes(p.planes, p.shape.height, p.shape.width, p.shape.dtype),
                (p.shape.taps() + 1) * kTileThreads * 4);
}

bool takes_planes(const DepthwiseWeightParams& p, const Device& device) {
  return takes_planes(p.shape, p.planes, plane_bytes(p), device, p.grad_output, p.input);
}

bool takes_planes(const DepthwiseParams& p, const Device& device) {
  return takes_planes(p.shape, p.planes, plane_bytes(p), device, p.source, p.target);
}

bool takes_tiles(const DepthwiseParams& p, const Device& device) {
  return takes_nhwc_tiles(p.shape, p.tiles, tile_bytes(p), device, p.source, p.target);
}

bool takes_tiles(const DepthwiseWeightParams& p, const Device& device) {
  return takes_nhwc_tiles(p.shape, p.tiles, tile_bytes(p), device, p.grad_output, p.input);
}

Launch tile_launch(Kernel kernel, int64_t blocks, int64_t shared_bytes) {
  Launch launch{};
  launch.kernel = kernel;
  launch.blocks = blocks;
  launch.threads = kTileThreads;
  launch.shared_bytes = int(shared_bytes);
  return launch;
}

}  // namespace

void complete(DepthwiseParams& p) {
  if (p.transposed && depthwise_conv2d_backward_is_forward(p.shape)) turn(p);
  const DepthwiseConv2dShape& s = p.shape;
  p.period_h = p.transposed ? s.stride_h / std::gcd(s.stride_h, s.dilation_h) : 1;
  p.period_w = p.transposed ? s.stride_w / std::gcd(s.stride_w, s.dilation_w) : 1;
  p.tiles = {}, p.planes = {}, p.band = {};
  if (!p.transposed) p.band = arrange_band(s);
  const bool phases_agree = s.pad_top % s.stride_h == s.pad_left % s.stride_w;
  if (has_tile(s) && (phases_agree || !p.transposed)) {
    const int kernel = int(s.kernel_h), stride = int(s.stride_h), phase = phase_of(p);
    p.tiles =
        arrange(depthwise_tile(kernel, stride, phase), s, p.target_height(), p.target_width());
    p.planes =
        arrange_planes(plane_tile(kernel, stride, phase), s, p.target_height(), p.target_width());
  }
}

void complete(DepthwiseWeightParams& p, const Device& device) {
  const DepthwiseConv2dShape& s = p.shape;
  p.tiles = {}, p.planes = {};
  if (has_tile(s)) {
    const int kernel = int(s.kernel_h), stride = int(s.stride_h);
    p.tiles = arrange(depthwise_weight_tile(kernel, stride), s, s.out_height, s.out_width);
    p.planes = arrange_planes(plane_tile(kernel, stride, -1), s, s.out_height, s.out_width);
  }
  constexpr int64_t kBlocks = 8;  // a multiprocessor: about twice as many as are there at a time
  const auto slabs_of = [&](int64_t patches, int64_t rows_of_blocks) {
    const int64_t wanted = div_up(kBlocks * device.multiprocessors, rows_of_blocks);
    return div_up(patches, div_up(patches, wanted));  // none is empty
  };
  if (takes_tiles(p, device)) {
    p.slabs = slabs_of(p.tiles.patches, p.tiles.channel_blocks.divisor);
    return;
  }
  if (takes_planes(p, device)) {
    p.slabs = slabs_of(p.planes.patches / p.planes.groups.divisor, p.planes.groups.divisor);
    return;
  }
  const int64_t wanted = int64_t{8} * device.multiprocessors * kDepthwiseThreads;
  const int64_t pixels = s.batch * s.out_height * s.out_width;
  constexpr int64_t kLeastPixels = 256;  // of a slab, which writes taps + 1 sums
  const int64_t threads = (s.taps() + 1) * s.out_channels();
  p.slabs = max_of<int64_t>(1, min_of(div_up(wanted, threads), pixels / kLeastPixels));
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
                          s.dtype, s.kernel_h, s.stride_h, phase_of(p));
  }
  if (takes_planes(p, device)) {
    return with_arguments(
        tile_launch(Kernel::depthwise_conv2d_nchw_tile, p.planes.patches, plane_bytes(p)), s.dtype,
        s.kernel_h, s.stride_h, phase_of(p));
  }
  Launch launch{};
  launch.kernel = Kernel::depthwise_conv2d_any;
  launch.threads = kDepthwiseThreads;
  launch.blocks =
      div_up<int64_t>(p.shape.batch * p.target_channels() * p.target_height() * p.target_width(),
                      kDepthwiseThreads);
  return with_arguments(launch, p.shape.dtype);
}

Launch plan(const DepthwiseWeightParams& p, const Device& device) {
  if (takes_tiles(p, device)) {
    const int64_t blocks = p.slabs * p.tiles.channel_blocks.divisor;
    return with_arguments(
        tile_launch(Kernel::depthwise_conv2d_weight_nhwc_tile, blocks, tile_bytes(p)),
        p.shape.dtype, p.shape.kernel_h, p.shape.stride_h);
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

}  // namespace fastconv::cuda
