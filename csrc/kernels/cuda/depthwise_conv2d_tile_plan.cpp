#include "depthwise_conv2d_tile_plan.h"

namespace fastconv::cuda {

namespace {

constexpr int64_t kMostSize = 1 << 30;  // and columns, batch, ...: what an int holds

}  // namespace

bool has_tile(const DepthwiseConv2dShape& s) {
  return s.dtype != DType::kFloat64 && s.multiplier == 1 && s.kernel_h == s.kernel_w &&
         s.kernel_h >= 2 && s.kernel_h <= 7 && s.stride_h == s.stride_w && s.stride_h <= 2 &&
         s.dilation_h == 1 && s.dilation_w == 1 && max_of(s.height, s.width) < kMostSize &&
         max_of(s.out_height, s.out_width) < kMostSize && max_of(s.channels, s.batch) < kMostSize;
}

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

DepthwiseWeight turned(DepthwiseWeight weight, const DepthwiseConv2dShape& s) {
  const int64_t last = (s.kernel_h - 1) * weight.stride_h + (s.kernel_w - 1) * weight.stride_w;
  weight.data = static_cast<const char*>(weight.data) + last * size_of(s.dtype);
  weight.stride_h = -weight.stride_h, weight.stride_w = -weight.stride_w;
  return weight;
}

Launch tile_launch(Kernel kernel, int64_t blocks, int64_t shared_bytes) {
  Launch launch{};
  launch.kernel = kernel;
  launch.blocks = blocks;
  launch.threads = kTileThreads;
  launch.shared_bytes = int(shared_bytes);
  return launch;
}

}  // namespace fastconv::cuda
