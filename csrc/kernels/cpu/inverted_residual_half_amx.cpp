// Filters and expansion of inverted_residual_half.h, by matrix tiles.
#include <cstring>
#include <type_traits>

#include "gemm.h"
#include "inverted_residual_half.h"
#include "simd/halves.h"

namespace fastconv::FASTCONV_ISA {
namespace {

using Params = InvertedResidualBfloat16Params;

constexpr int64_t kColumns = 7;  // of a depthwise tile; a row may be read a tile beyond its end
constexpr int64_t kRowsTogether = 2 * kTileRegisterRows;
static_assert(kHiddenPanel == 2 * kTileRegisterColumns && kHiddenPanel == VecH::kLanes);

// Steps of the depth, each of the same number of pairs up to a register's; 0 where that leaves the
// registers less than half in use.
int64_t depth_steps(int64_t pairs) {
  for (int64_t steps = div_up<int64_t>(pairs, kTilePairs); steps <= pairs; ++steps) {
    if (pairs % steps == 0 && (steps == 1 || 2 * pairs / steps >= kTilePairs)) return steps;
    if (2 * pairs / steps < kTilePairs) break;
  }
  return 0;
}

// Where the next pixel goes, in rows of a ring.
struct Place {
  float16* to;
  int64_t left;                 // pixels to the end of the row
  int64_t width, margin, last;  // elements from the end of a row to the next, to its last vector
  VecH seen;                    // NaN where the row has had one
};

// Sums that wait to be narrowed, in rows of kHiddenPanel.
struct Waiting {
  const float* sums;
  int64_t pixels;

  // All that the loop changes is its own: what it stores may be anything, to the compiler. Clock
  // ticks for 1024 sums, 16 to 96 channels: 280 with `place` and `sums` in memory, 208 so.
  FASTCONV_INLINE void narrow(int64_t most, Place& place) {
    const VecH zero = VecH::set1(0), six = VecH::set1(6);
    most = min_of(most, pixels);
    pixels -= most;
    VecH seen = place.seen;
    while (most > 0) {
      const int64_t run = min_of(most, place.left);
      float16* to = place.to;
      const float* from = sums;
      const auto pixel = [&](int64_t i) __attribute__((always_inline)) {
        const VecH h = min(six, max(zero, narrow_half(from + i * kHiddenPanel)));
        store_half(to + i * kHiddenPanel, h);
        return h;
      };
      int64_t i = 0;
      // Of numbers from 0 to 6 no sum of products is a NaN.
      for (; i + 2 <= run; i += 2) seen = fma(pixel(i), pixel(i + 1), seen);
      if (i < run) seen = fma(pixel(i), zero, seen);
      place.to = to + run * kHiddenPanel, sums = from + run * kHiddenPanel;
      most -= run, place.left -= run;
      if (place.left == 0) {
        store_half(place.to + place.last, seen);
        seen = zero;
        place.to += place.margin, place.left = place.width;
      }
    }
    place.seen = seen;
  }
};

// A group of pixels, one or two tiles of rows and of columns.
struct Group {
  const bfloat16 *a, *b;
  int64_t a_row, b_row, a_second, b_second;  // elements: of rows, to the second tile
  const float* bias;
  int64_t steps, pairs;
  bool has_b;   // registers 5 and 7 have b already
  float* sums;  // rows of kHiddenPanel
};

// What a group leaves in registers 2 and 3, the sums of its second tile of rows.
struct Left {
  float* sums;     // where they go, null where there are none
  int64_t column;  // elements to those of register 3, 0 without

  FASTCONV_INLINE void store(Tiles& tiles) {
    if (sums == nullptr) return;
    tiles.store<2>(sums, kHiddenPanel * sizeof(float));
    if (column > 0) tiles.store<3>(sums + column, kHiddenPanel * sizeof(float));
    sums = nullptr;
  }
};

// The sums of the group before are narrowed while the tiles are multiplied, in two runs a step of
// the depth. 112x112, 16 to 96 channels, clock ticks for 1024 sums: 209 after each product, 221 in
// one run, 192 to 205 so; 96 to 576: 383, 375, 354 to 376. In turn, of one step alone: each tile of
// rows is stored while the next one is multiplied, 207 to 161 in a loop of its own; of several
// steps MobileNet v2 takes longer by it at batch 1 (one core of an Intel Xeon with AMX).
template <bool kTwoRows, bool kTwoColumns, bool kInTurn>
FASTCONV_INLINE void sum(Tiles& tiles, const Group& g, Waiting waiting, Place& place, Left& left) {
  constexpr int64_t kBytes = sizeof(bfloat16), kRow = kHiddenPanel * sizeof(float);
  const int64_t column = g.b_second / 2, a_row = g.a_row * kBytes, b_row = g.b_row * kBytes;
  const int64_t steps = kInTurn ? 1 : g.steps;
  const int64_t at_once = div_up(waiting.pixels, (kTwoRows ? 2 : 1) * steps);
  const auto narrow = [&]() __attribute__((always_inline)) { waiting.narrow(at_once, place); };
  const auto begin = [&](auto c) __attribute__((always_inline)) {
    constexpr int C = decltype(c)::value;
    if (g.bias == nullptr) return tiles.zero<C>(), tiles.zero<C + 1>();
    tiles.load<C>(g.bias, 0);
    if constexpr (kTwoColumns) tiles.load<C + 1>(g.bias + column, 0);
  };
  const auto store_first = [&]() __attribute__((always_inline)) {
    tiles.store<0>(g.sums, kRow);
    if constexpr (kTwoColumns) tiles.store<1>(g.sums + column, kRow);
  };
  const bfloat16 *a = g.a, *b = g.b;
  begin(std::integral_constant<int, 0>{});
  if constexpr (kTwoRows && !kInTurn) begin(std::integral_constant<int, 2>{});
  for (int64_t step = 0; step < steps; ++step) {
    if (!g.has_b) tiles.load<5>(b, b_row);
    tiles.load<4>(a, a_row);
    tiles.multiply<0, 4, 5>();
    if constexpr (kTwoColumns) {
      if (!g.has_b) tiles.load<7>(b + g.b_second, b_row);
      tiles.multiply<1, 4, 7>();
    }
    if constexpr (kInTurn) left.store(tiles);
    narrow();
    if constexpr (kTwoRows) {
      if constexpr (kInTurn) begin(std::integral_constant<int, 2>{});
      tiles.load<6>(a + g.a_second, a_row);
      tiles.multiply<2, 6, 5>();
      if constexpr (kTwoColumns) tiles.multiply<3, 6, 7>();
      if constexpr (kInTurn) store_first();
      narrow();
    }
    a += 2 * g.pairs, b += g.pairs * g.b_row;
  }
  if constexpr (!kInTurn || !kTwoRows) store_first();
  if constexpr (kTwoRows) left = {g.sums + g.a_second / g.a_row * kHiddenPanel, column};
  if constexpr (!kInTurn) left.store(tiles);
}

template <bool kTwoRows, bool kTwoColumns>
void sum(Tiles& tiles, const Group& g, Waiting waiting, Place& place, Left& left) {
  g.steps == 1 ? sum<kTwoRows, kTwoColumns, true>(tiles, g, waiting, place, left)
               : sum<kTwoRows, kTwoColumns, false>(tiles, g, waiting, place, left);
}

template <bool kTwoColumns>
void sum(Tiles& tiles, const Group& g, Waiting waiting, Place& place, Left& left) {
  g.a_second > 0 ? sum<true, kTwoColumns>(tiles, g, waiting, place, left)
                 : sum<false, kTwoColumns>(tiles, g, waiting, place, left);
}

FASTCONV_INLINE VecF size_of_lanes(VecF a) {
  return max(a, VecF::set1(0) - a);
}

// Whether sums stay within float16, and no filter is finer than float16 is, in channels from
// `first` on.
FASTCONV_INLINE bool channels_fit(const Params& p, int64_t first, int64_t lanes) {
  const VecF none = VecF::set1(0), one = VecF::set1(1);
  const VecF most = VecF::set1(60000 / kClampScale), least = VecF::set1(0x1p-14f);
  VecF sum = none;
  if (p.depthwise_bias) sum = size_of_lanes(load_partial(p.depthwise_bias + first, lanes));
  VecF largest = sum;
  for (int64_t tap = 0; tap < p.kernel_h * p.kernel_w; ++tap) {
    const VecF w = size_of_lanes(load_partial(p.depthwise_weight + tap * p.hidden + first, lanes));
    sum = fma(VecF::set1(6), w, sum), largest = max(largest, w);
  }
  const VecF fine = select_lt(largest, least, select_lt(none, sum, one, none), none);
  return reduce_add(select_lt(sum, most, fine, one)) == 0;
}

}  // namespace

int64_t half_row(const InvertedResidualShape& s) {
  const int64_t read = (div_up(s.out_width, kColumns) * kColumns - 1) * s.stride_w + s.kernel_w;
  return (max_of(s.pad_left + s.width, read) + 1) * kHiddenPanel;
}

int64_t half_filter(const InvertedResidualShape& s) {
  return (2 + s.kernel_h * s.kernel_w) * kHiddenPanel;
}

bool fits_half(const float16* filter) {
  return filter->bits != 0;
}

void spoil(float16* filter) {
  filter[1].bits = 1;
}

bool is_spoilt(const float16* filter) {
  return filter[1].bits != 0;
}

bool begin_half(const Params& p, int64_t panel, const HalfRing& ring, float16* filter) {
  const int64_t first = panel * kHiddenPanel, channels = min_of(kHiddenPanel, p.hidden - first);
  std::memset(filter, 0, half_filter(p) * sizeof(float16));
  if (p.activation != Activation::kReLU6) return false;
  if (p.expands && depth_steps(p.in_channels / 2) == 0) return false;
  constexpr int64_t L = kLanes<float>;
  const int64_t taps = p.kernel_h * p.kernel_w;
  for (int64_t c = 0; c < channels; c += L) {
    const int64_t lanes = min_of(L, channels - c);
    if (!channels_fit(p, first + c, lanes)) return false;
    float16* row = filter + kHiddenPanel + c;
    const VecF scale = VecF::set1(kClampScale);
    if (p.depthwise_bias) store(row, scale * load_partial(p.depthwise_bias + first + c, lanes));
    for (int64_t tap = 0; tap < taps; ++tap) {
      const float* from = p.depthwise_weight + tap * p.hidden + first + c;
      store(row + (1 + tap) * kHiddenPanel, scale * load_partial(from, lanes));
    }
  }
  filter->bits = 1;
  const VecH zero = VecH::set1(0);
  const int64_t left = p.pad_left * kHiddenPanel, right = left + p.width * kHiddenPanel;
  for (float16* row = ring.rows; row < ring.rows + ring.slots * ring.row; row += ring.row) {
    for (int64_t i = 0; i < left; i += kHiddenPanel) store_half(row + i, zero);
    for (int64_t i = right; i < ring.row; i += kHiddenPanel) store_half(row + i, zero);
  }
  return true;
}

void expand_half(Tiles& tiles, const Params& p, int64_t panel, int64_t image, int64_t from,
                 int64_t to, const HalfRing& ring) {
  alignas(64) float sums[2][kRowsTogether * kHiddenPanel];
  const int64_t columns = min_of(kHiddenPanel, p.hidden - panel * kHiddenPanel);
  const int64_t wide = min_of<int64_t>(columns, kTileRegisterColumns);
  if (columns < kHiddenPanel) std::memset(sums, 0, sizeof sums);
  Group g;
  g.a_row = p.in_channels, g.b_row = 2 * p.expand_row;
  g.b = p.expand_weight + 2 * panel * kHiddenPanel, g.b_second = 2 * (columns - wide);
  g.bias = p.expand_bias ? p.expand_bias + panel * kHiddenPanel : nullptr;
  g.steps = depth_steps(p.in_channels / 2), g.pairs = p.in_channels / 2 / g.steps;
  const int64_t margin = ring.row - p.width * kHiddenPanel, left = p.pad_left * kHiddenPanel;
  while (from < to) {
    const int64_t slot = ring.slot(from), rows = min_of(to - from, ring.slots - slot);
    const int64_t pixels = rows * p.width, count = div_up<int64_t>(pixels, kTileRegisterRows);
    const int64_t height =
        div_up(pixels, count);  // of each tile; the last lies over the one before
    tiles.set_shape({uint8_t(height), uint8_t(wide), uint8_t(g.pairs), uint8_t(g.pairs)});
    const bfloat16* input = p.input + (image * p.height + from) * p.width * p.in_channels;
    Place place{ring.rows + slot * ring.row + left, p.width,      p.width, margin,
                margin - left - kHiddenPanel,       VecH::set1(0)};
    Waiting waiting{nullptr, 0};
    Left left{nullptr, 0};
    g.has_b = false;
    for (int64_t tile = 0, done = 0; tile < count; tile += 2) {
      const int64_t first = min_of(tile * height, pixels - height);
      const int64_t second = min_of((tile + 1) * height, pixels - height);
      g.a = input + first * p.in_channels, g.a_second = (second - first) * p.in_channels;
      g.sums = sums[tile / 2 % 2];
      g.b_second > 0 ? sum<true>(tiles, g, waiting, place, left)
                     : sum<false>(tiles, g, waiting, place, left);
      const int64_t until = min_of((tile + 2) * height, pixels);
      waiting = {g.sums + (done - first) * kHiddenPanel, until - done}, done = until;
      g.has_b = g.steps == 1;
    }
    left.store(tiles);
    waiting.narrow(waiting.pixels, place);
    from += rows;
  }
}

void copy_half(const Params& p, int64_t panel, int64_t image, int64_t from, int64_t to,
               const HalfRing& ring) {
  const int64_t channels = min_of(kHiddenPanel, p.hidden - panel * kHiddenPanel);
  for (int64_t y = from; y < to; ++y) {
    const bfloat16* x =
        p.input + (image * p.height + y) * p.width * p.hidden + panel * kHiddenPanel;
    float16* row = ring.rows + ring.slot(y) * ring.row;
    VecSizes sizes{};
    float16* pixel = row + p.pad_left * kHiddenPanel;
    for (int64_t i = 0; i < p.width; ++i, x += p.hidden, pixel += kHiddenPanel) {
      store_half(pixel, small_half(x, channels, sizes));
    }
    store_sizes(row + ring.row - kHiddenPanel, sizes);
  }
}

bool fits_half(const Params& p, const RowSpan& span, const HalfRing& ring) {
  constexpr uint16_t kLeast = (127 - 6) << 7, kMost = 0x40c0;  // of bfloat16: 2^-6 and 6
  constexpr uint16_t kInfinity = 0x7c00;                       // of float16
  const int64_t top = span.first * p.stride_h - p.pad_top;
  const int64_t bottom = min_of(top + (span.count - 1) * p.stride_h + p.kernel_h, p.height);
  int64_t y = max_of<int64_t>(top, 0), slot = ring.slot(y);
  VecSizes sizes{};
  for (; y < bottom; ++y, slot = slot + 1 < ring.slots ? slot + 1 : 0) {
    raise_sizes(sizes, ring.rows + (slot + 1) * ring.row - kHiddenPanel);
  }
  if (p.expands) return !any_above(sizes, kInfinity);
  return !any_above(sizes, 0) || (any_above(sizes, kLeast - 1) && !any_above(sizes, kMost));
}

}  // namespace fastconv::FASTCONV_ISA
