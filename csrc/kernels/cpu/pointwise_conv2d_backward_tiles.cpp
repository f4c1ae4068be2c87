// The weight gradient of channels_last bfloat16 by matrix tiles. A split of the pixels is a unit:
// block after block, gradient and input are laid out as the tiles read them, once for all channels,
// and their product is added to the sums of the split. MobileNetV2's training step, batch 16, under
// autocast: 277 ms by pairs of pixels, 210 so (two cores of an Intel Xeon with AMX).
#include "pointwise_conv2d_backward_tiles.h"

#include <cstring>

#include "../pointwise_conv2d.h"
#include "pointwise_conv2d_backward.h"
#include "simd/tiles.h"
#include "stage_pairs.h"

#if defined(__AMX_TILE__) || defined(FASTCONV_EMULATES_TILES)

namespace fastconv::FASTCONV_ISA {
namespace {

using Params = PointwiseConv2dWeightGradientParams;

constexpr int64_t kSide = 16;             // rows and columns of a register, pairs of its depth
constexpr int64_t kTile = kSide * kSide;  // values of 32 bits
constexpr int64_t kStepPixels = 2 * kSide;
constexpr int64_t kMostSplits = 16, kLeastSplits = 4;
constexpr int64_t kPartialElements = 1 << 20;  // of all splits: what a second cache holds

struct Split {
  int64_t pixels, blocks, splits;

  FASTCONV_INLINE explicit Split(const Params& p) : pixels(pixels_of(p)) {
    blocks = div_up(pixels, kBlockPixels);
    const int64_t fit = kPartialElements / (p.out_channels * p.in_channels);
    splits = min_of(blocks, max_of(kLeastSplits, min_of(kMostSplits, fit)));
  }
};

FASTCONV_INLINE int64_t tiles_of(int64_t channels) {
  return div_up(channels, kSide);
}

// What a block becomes: tile after tile of 16 channels, each with its steps of 32 pixels. Pixels
// and channels that are missing are zeros.
struct Staged {
  uint32_t *gradient, *input;
  int64_t steps;
};

// 16 pairs of pixels by 16 channels.
FASTCONV_INLINE void stage_tile(const bfloat16* from, int64_t row, int64_t pixels, int64_t channels,
                                uint32_t* to) {
  if (pixels == kStepPixels && channels == kSide) {
    for (int64_t k = 0; k < kSide; ++k, from += 2 * row)
      zip(from, from + row, to + k * kSide, kSide);
    return;
  }
  std::memset(to, 0, kTile * sizeof(uint32_t));
  stage_pairs(from, row, 1, to, kSide, pixels, channels);
}

void stage_block(const Params& p, Range pixels, const Staged& to) {
  alignas(64) uint32_t pairs[kTile];
  for (int64_t step = 0; step < to.steps; ++step) {
    const int64_t first = step * kStepPixels, count = min_of(kStepPixels, pixels.count - first);
    const int64_t pixel = pixels.first + first;
    const auto* input = static_cast<const bfloat16*>(p.input) + pixel * p.in_channels;
    for (int64_t c = 0; c < p.in_channels; c += kSide) {
      stage_tile(input + c, p.in_channels, count, min_of(kSide, p.in_channels - c),
                 to.input + (c / kSide * to.steps + step) * kTile);
    }
    const auto* gradient = static_cast<const bfloat16*>(p.grad_output) + pixel * p.out_channels;
    for (int64_t c = 0; c < p.out_channels; c += kSide) {
      stage_tile(gradient + c, p.out_channels, count, min_of(kSide, p.out_channels - c), pairs);
      auto* rows = reinterpret_cast<float*>(to.gradient + (c / kSide * to.steps + step) * kTile);
      stage(reinterpret_cast<const float*>(pairs), 1, kSide, rows, kSide, kSide, kSide);
    }
  }
}

// A product of 16 x 16 channels in the sums: where it is, or in a copy of it at the edges.
class Sums {
 public:
  FASTCONV_INLINE Sums(const Params& p, float* product, int64_t out, int64_t in)
      : at_(product + out * p.in_channels + in),
        row_(p.in_channels),
        rows_(min_of(kSide, p.out_channels - out)),
        columns_(min_of(kSide, p.in_channels - in)),
        whole_(rows_ == kSide && columns_ == kSide) {}

  template <int C>
  FASTCONV_INLINE void begin(Tiles& tiles, bool first) {
    if (first) return tiles.zero<C>();
    if (whole_) return tiles.load<C>(at_, row_ * int64_t(sizeof(float)));
    for (int64_t i = 0; i < rows_; ++i) {
      std::memcpy(edge_ + i * kSide, at_ + i * row_, columns_ * sizeof(float));
    }
    tiles.load<C>(edge_, kSide * sizeof(float));
  }

  template <int C>
  FASTCONV_INLINE void end(Tiles& tiles) {
    if (whole_) return tiles.store<C>(at_, row_ * int64_t(sizeof(float)));
    tiles.store<C>(edge_, kSide * sizeof(float));
    for (int64_t i = 0; i < rows_; ++i) {
      std::memcpy(at_ + i * row_, edge_ + i * kSide, columns_ * sizeof(float));
    }
  }

 private:
  float* at_;
  int64_t row_, rows_, columns_;
  bool whole_;
  alignas(64) float edge_[kTile];
};

// DOWN tiles of output channels by ACROSS of input channels.
template <int DOWN, int ACROSS>
void multiply(Tiles& tiles, const Params& p, const Staged& from, int64_t out, int64_t in,
              bool first, float* product) {
  constexpr int64_t kRow = kSide * sizeof(uint32_t);
  Sums sums[2][2] = {{{p, product, out, in}, {p, product, out, in + kSide}},
                     {{p, product, out + kSide, in}, {p, product, out + kSide, in + kSide}}};
  sums[0][0].begin<0>(tiles, first);
  if constexpr (ACROSS == 2) sums[0][1].begin<1>(tiles, first);
  if constexpr (DOWN == 2) sums[1][0].begin<2>(tiles, first);
  if constexpr (DOWN * ACROSS == 4) sums[1][1].begin<3>(tiles, first);
  const int64_t next = from.steps * kTile;
  const uint32_t* a = from.gradient + out / kSide * next;
  const uint32_t* b = from.input + in / kSide * next;
  for (int64_t step = 0; step < from.steps; ++step, a += kTile, b += kTile) {
    tiles.load<5>(b, kRow), tiles.load<4>(a, kRow);
    tiles.multiply<0, 4, 5>();
    if constexpr (ACROSS == 2) tiles.load<7>(b + next, kRow), tiles.multiply<1, 4, 7>();
    if constexpr (DOWN == 2) tiles.load<6>(a + next, kRow), tiles.multiply<2, 6, 5>();
    if constexpr (DOWN * ACROSS == 4) tiles.multiply<3, 6, 7>();
  }
  sums[0][0].end<0>(tiles);
  if constexpr (ACROSS == 2) sums[0][1].end<1>(tiles);
  if constexpr (DOWN == 2) sums[1][0].end<2>(tiles);
  if constexpr (DOWN * ACROSS == 4) sums[1][1].end<3>(tiles);
}

PointwiseConv2dWeightGradientPlan plan(const Params& p) {
  const Split split(p);
  PointwiseConv2dWeightGradientPlan plan{};
  plan.units = split.splits;
  const int64_t steps = div_up(min_of(split.pixels, kBlockPixels), kStepPixels);
  plan.scratch_bytes = (tiles_of(p.out_channels) + tiles_of(p.in_channels)) * steps * kTile *
                       int64_t(sizeof(uint32_t));
  plan.reduce_units = p.out_channels;
  plan.partials_bytes = split.splits * p.out_channels * p.in_channels * int64_t(sizeof(float));
  return plan;
}

void run(const Params& p, void* partials, void* scratch, int64_t begin, int64_t end) {
  const Split split(p);
  Tiles tiles;
  tiles.set_shape({kSide, kSide, kSide});
  for (int64_t unit = begin; unit < end; ++unit) {
    const Range range = part_of(split.blocks, split.splits, unit);
    float* product = static_cast<float*>(partials) + unit * p.out_channels * p.in_channels;
    for (int64_t block = range.first; block < range.first + range.count; ++block) {
      const Range pixels = part_of(split.pixels, split.blocks, block);
      const bool first = block == range.first && !p.adds;
      Staged staged{};
      staged.steps = div_up(pixels.count, kStepPixels);
      staged.gradient = static_cast<uint32_t*>(scratch);
      staged.input = staged.gradient + tiles_of(p.out_channels) * staged.steps * kTile;
      stage_block(p, pixels, staged);
      for (int64_t out = 0; out < p.out_channels; out += 2 * kSide) {
        for (int64_t in = 0; in < p.in_channels; in += 2 * kSide) {
          const bool down = out + kSide < p.out_channels, across = in + kSide < p.in_channels;
          const auto run_tiles = down     ? across ? multiply<2, 2> : multiply<2, 1>
                                 : across ? multiply<1, 2>
                                          : multiply<1, 1>;
          run_tiles(tiles, p, staged, out, in, first, product);
        }
      }
    }
  }
}

}  // namespace

const PointwiseConv2dBackwardKernels pointwise_conv2d_backward_tiles_kernels = {plan, run, nullptr,
                                                                                nullptr};

}  // namespace fastconv::FASTCONV_ISA

#endif
