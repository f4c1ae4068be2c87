#include "depthwise_conv2d.h"
#include "plan.h"

namespace fastconv::cuda {

namespace {

constexpr int64_t kMostSize = 1 << 30, kMostRows = 255;  // of a tensor; of a reach

// Bytes of a block's shared memory, at most, where its channels leave the choice: four blocks fit
// into the 227 KB of a multiprocessor.
constexpr int64_t kSharedBytes = 56 << 10;

// How the staged rows of an image lie in shared memory.
void set_words(BandTiles& t) {
  const int pairs = 1 << t.pairs_log2, pitch = band_pitch(t.blocks, t.tiles);
  const int half = pairs - 1 + band_steps(t.reach_h);
  t.source_rows = 2 * half;
  t.odd_rows = half * pitch;
  t.image_words = 2 * t.odd_rows;
  constexpr int kBanks = 32;  // the pairs of all images in different ones
  while (pairs < 8 && (t.image_words - pairs * pitch) % kBanks != 0) t.image_words += 4;
  t.plane_words = kBandPairs / pairs * t.image_words;
}

void set_channels(BandTiles& t, int channels_log2) {
  const int channels = 1 << channels_log2;
  t.channels_log2 = channels_log2;
  t.weights = channels * t.plane_words + (channels / kBandPack - 1) * kBandGap;
}

int64_t bytes_of(const BandTiles& t) {
  const int64_t weights = band_weight_rows(t.reach_h) * band_weight_words(t.blocks);
  return 4 * (t.weights + (weights << t.channels_log2));
}

// Issue slots of a warp for a channel of a patch, as counted in SASS; a product takes four.
int64_t slots(const BandTiles& t, Layout layout) {
  const int64_t products = 2 * t.tiles * t.blocks, loads = t.tiles + t.blocks - 1 + 6 * t.blocks;
  const int64_t weights = band_weight_rows(t.reach_h) * band_weight_words(t.blocks);
  const int64_t staged =
      int64_t{kBandPairs >> t.pairs_log2} * t.source_rows * band_words(t.blocks, t.tiles);
  const int64_t a_word = layout == Layout::kNHWC ? 5 : 20;
  return band_steps(t.reach_h) * (4 * products + loads) + 40 * t.tiles +
         (staged * a_word + weights * 18) / 32;
}

}  // namespace

// The arrangement that does the least.
BandTiles arrange_band(const DepthwiseConv2dShape& s) {
  BandTiles best{};
  const int64_t reach_h = band_reach(s.kernel_h, s.dilation_h);
  const int64_t reach_w = band_reach(s.kernel_w, s.dilation_w);
  const bool fits =
      size_of(s.dtype) == 2 && s.multiplier == 1 && s.stride_h == 1 && s.stride_w == 1 &&
      reach_h <= kMostRows && reach_w <= kBandMostReach && max_of(s.height, s.width) < kMostSize &&
      max_of(s.out_height, s.out_width) < kMostSize && max_of(s.channels, s.batch) < kMostSize;
  if (!fits) return best;
  int64_t least = 0;
  for (int tiles = 1; tiles <= 4; tiles *= 2) {
    for (int pairs_log2 = 2; 1 << pairs_log2 <= kBandPairs; ++pairs_log2) {
      BandTiles t{};
      t.reach_h = int(reach_h), t.reach_w = int(reach_w);
      t.blocks = max_of(band_blocks(reach_w), 2), t.tiles = tiles, t.pairs_log2 = pairs_log2;
      set_words(t);
      set_channels(t, 4);
      if (s.channels <= 8 || bytes_of(t) > kSharedBytes) set_channels(t, 3);
      const int64_t across = div_up<int64_t>(s.out_width, tiles * kBandColumns);
      const int64_t down = div_up<int64_t>(s.out_height, 2 << pairs_log2);
      const int64_t patches = across * down * div_up<int64_t>(s.batch, kBandPairs >> pairs_log2);
      const int64_t work = patches * slots(t, s.layout);
      if (patches >= 1u << 31 || (least > 0 && work >= least)) continue;
      t.across = make_divider(across), t.down = make_divider(down);
      t.channel_blocks = make_divider(div_up<int64_t>(s.channels, 1 << t.channels_log2));
      t.patches = uint32_t(patches);
      least = work, best = t;
    }
  }
  return best;
}

bool takes_band(const DepthwiseParams& p, const Device& device) {
  const BandTiles& t = p.band;
  const bool packs = p.shape.layout == Layout::kNCHW ||
                     (p.shape.channels % kBandPack == 0 &&
                      pack_width(p.shape.dtype, p.source, p.target) == kBandPack);
  return t.patches > 0 && packs && bytes_of(t) <= device.shared_bytes &&
         int64_t{t.patches} * t.channel_blocks.divisor < int64_t{1} << 31;
}

Launch band_launch(const DepthwiseParams& p) {
  const BandTiles& t = p.band;
  Launch launch{};
  launch.kernel = Kernel::depthwise_conv2d_band;
  launch.blocks = int64_t{t.patches} * t.channel_blocks.divisor;
  launch.threads = kBandThreads;
  launch.shared_bytes = int(bytes_of(t));
  return with_arguments(launch, p.shape.dtype, p.shape.layout, t.blocks, t.tiles);
}

}  // namespace fastconv::cuda
