// Convolution of a bfloat16 image with few channels: each row of the image that an output row reads
// is laid out as planes of pairs of taps, pixel beside pixel whatever the stride, the layout and
// the padding; the rest is a matrix product. Matrix tiles want pixel after pixel, each with all its
// taps: for them the planes are transposed. 3 channels of 224x224, stride 2, us by pairs in vectors
// / by matrix tiles: 3x3 to 32: 279 / 127, 7x7 to 64: 2233 / 504 (one core of an Intel Xeon with
// AMX).
#include "stem_conv2d_bfloat16.h"

#include <cstring>

#include "gemm_bfloat16.h"
#include "stage_pairs.h"
#include "streaming.h"

namespace fastconv::FASTCONV_ISA {
namespace {

FASTCONV_INLINE int64_t taps_a_row(const StemConv2dParams& p) {
  return p.kernel_w * p.channels;
}

// With an odd number of taps the last pair ends with a zero.
FASTCONV_INLINE int64_t pairs_a_row(const StemConv2dParams& p) {
  return div_up<int64_t>(taps_a_row(p), 2);
}

// Pairs that a row of the image becomes: [pair of taps][pixel].
FASTCONV_INLINE int64_t row_pairs(const StemConv2dParams& p) {
  return pairs_a_row(p) * p.out_width;
}

// Pairs from a pixel to the next where its taps lie together: whole lines of the cache.
FASTCONV_INLINE int64_t pixel_pairs(const StemConv2dParams& p) {
  constexpr int64_t kLine = 64 / sizeof(uint32_t);
  return div_up(p.kernel_h * pairs_a_row(p), kLine) * kLine;
}

FASTCONV_INLINE int64_t weight_pairs(const StemConv2dParams& p) {
  return p.kernel_h * pairs_a_row(p) * p.out_channels;
}

// A tap of a row of the image: x[j * step] is what pixel j of the output multiplies, for j from
// first up to last; the others are padding.
struct Tap {
  const bfloat16* x;
  int64_t first, last;

  FASTCONV_INLINE bfloat16 at(int64_t j, int64_t step) const {
    return j >= first && j < last ? x[j * step] : bfloat16{0};
  }
};

Tap tap_at(const StemConv2dParams& p, const bfloat16* row, int64_t channel, int64_t tap) {
  const int64_t w = tap / p.channels - p.pad_left, c = tap % p.channels;
  const int64_t first = w < 0 ? div_up(-w, p.stride_w) : 0;
  const int64_t last = w < p.width ? (p.width - 1 - w) / p.stride_w + 1 : 0;
  const int64_t pixel = p.layout == Layout::kNHWC ? p.channels : 1;
  return {row + c * channel + w * pixel, first, min_of(last, p.out_width)};
}

FASTCONV_INLINE uint32_t word(const bfloat16* p) {
  uint32_t w;
  std::memcpy(&w, p, sizeof w);
  return w;
}

// to[j] = the pair of a[2j] and b[2j], or of a[2j] and zero, from words of two elements: the last
// elements are read by themselves.
template <bool kTwo>
FASTCONV_INLINE void zip_every_second(const bfloat16* a, const bfloat16* b, uint32_t* to,
                                      int64_t count) {
  constexpr int64_t kTogether = 16;  // a count that the compiler knows becomes one vector
  const auto vector = [&](int64_t first) __attribute__((always_inline)) {
    for (int64_t k = first; k < first + kTogether; ++k) {
      to[k] = (word(a + 2 * k) & 0xffff) | (kTwo ? word(b + 2 * k) << 16 : 0);
    }
  };
  int64_t j = 0;
  for (; j + kTogether < count; j += kTogether) vector(j);
  if (j > 0) vector(count - 1 - kTogether), j = count - 1;
  for (; j < count; ++j) to[j] = pair_of(a[2 * j], kTwo ? b[2 * j] : bfloat16{0});
}

// b null: zeros.
void zip_taps(const Tap& a, const Tap* b, int64_t step, uint32_t* to, int64_t count) {
  const int64_t most = b == nullptr ? a.first : max_of(a.first, b->first);
  const int64_t least = b == nullptr ? a.last : min_of(a.last, b->last);
  const int64_t first = min_of(most, count), last = max_of(min_of(least, count), first);
  const auto pair_at = [&](int64_t j) {
    return pair_of(a.at(j, step), b == nullptr ? bfloat16{0} : b->at(j, step));
  };
  for (int64_t j = 0; j < first; ++j) to[j] = pair_at(j);
  const bfloat16 *x = a.x + first * step, *y = b == nullptr ? x : b->x + first * step;
  if (step == 2 && b != nullptr) {
    zip_every_second<true>(x, y, to + first, last - first);
  } else if (step == 2) {
    zip_every_second<false>(x, y, to + first, last - first);
  } else if (b == nullptr) {
    for (int64_t j = first; j < last; ++j) to[j] = pair_of(a.x[j * step], bfloat16{0});
  } else if (step == 1) {
    zip(x, y, to + first, last - first);
  } else {
    for (int64_t j = first; j < last; ++j) to[j] = pair_of(a.x[j * step], b->x[j * step]);
  }
  for (int64_t j = last; j < count; ++j) to[j] = pair_at(j);
}

// Row h of image n: [pair of taps][pixel].
void stage_image_row(const StemConv2dParams& p, int64_t n, int64_t h, uint32_t* to) {
  const bool nhwc = p.layout == Layout::kNHWC;
  const int64_t channel = nhwc ? 1 : p.height * p.width;
  const int64_t first =
      nhwc ? (n * p.height + h) * p.width * p.channels : (n * p.channels * p.height + h) * p.width;
  const bfloat16* row = static_cast<const bfloat16*>(p.input) + first;
  const int64_t step = p.stride_w * (nhwc ? p.channels : 1), taps = taps_a_row(p);
  for (int64_t tap = 0; tap < taps; tap += 2, to += p.out_width) {
    const Tap a = tap_at(p, row, channel, tap);
    const bool whole = tap + 1 < taps;
    const Tap b = whole ? tap_at(p, row, channel, tap + 1) : a;
    zip_taps(a, whole ? &b : nullptr, step, to, p.out_width);
  }
}

}  // namespace

StemConv2dPlan plan_stem_bfloat16(const StemConv2dParams& p) {
  StemConv2dPlan plan{};
  plan.prepared_bytes = (weight_pairs(p) + p.out_channels) * sizeof(uint32_t);
  plan.units = p.batch * p.out_height;
  const int64_t transposed = kHasTiles ? p.out_width * pixel_pairs(p) : 0;
  plan.scratch_bytes = (transposed + p.kernel_h * row_pairs(p)) * sizeof(uint32_t);
  return plan;
}

void prepare_stem_bfloat16(const StemConv2dParams& p, void* prepared) {
  const auto* weight = static_cast<const bfloat16*>(p.weight);
  auto* to = static_cast<uint32_t*>(prepared);
  const int64_t taps = taps_a_row(p);
  for (int64_t h = 0; h < p.kernel_h; ++h) {
    const auto at = [&](int64_t tap) {
      return weight + h * p.weight_row_stride + tap / p.channels * p.weight_column_stride +
             tap % p.channels * p.weight_in_stride;
    };
    for (int64_t tap = 0; tap < taps; tap += 2, to += p.out_channels) {
      const bool whole = tap + 1 < taps;
      const bfloat16 *first = at(tap), *second = whole ? at(tap + 1) : first;
      for (int64_t o = 0; o < p.out_channels; ++o) {
        const int64_t i = o * p.weight_out_stride;
        to[o] = pair_of(first[i], whole ? second[i] : bfloat16{0});
      }
    }
  }
  stage_bias<bfloat16>(p, reinterpret_cast<float*>(to));
}

void run_stem_bfloat16(const StemConv2dParams& p, const void* prepared, void* scratch,
                       int64_t begin, int64_t end) {
  const auto* weight = static_cast<const uint32_t*>(prepared);
  const auto* bias = reinterpret_cast<const float*>(weight + weight_pairs(p));
  auto* pixels = static_cast<float*>(scratch);  // any words of 32 bits
  // Of the image, from the first that is read.
  auto* rows = static_cast<uint32_t*>(scratch) + (kHasTiles ? p.out_width * pixel_pairs(p) : 0);
  const int64_t row = row_pairs(p), elements = p.out_width * p.out_channels;
  PairTile<bfloat16> t{};
  t.a_row = kHasTiles ? 2 * pixel_pairs(p) : 2, t.a_pair = kHasTiles ? 2 : 2 * p.out_width;
  t.b_row = 2 * p.out_channels, t.c_row = p.out_channels;
  t.rows = p.out_width;
  t.streams =
      wants_stream<bfloat16>(p.output, p.batch * p.out_height * p.out_width, p.out_channels);
  set_clamp(t, p.activation);
  Tiles tiles;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / p.out_height, y = unit % p.out_height;
    const int64_t top = y * p.stride_h - p.pad_top;
    int64_t kept = 0;  // rows of the unit before this one, which it shares
    if (unit > begin && y > 0 && p.stride_h < p.kernel_h) {
      kept = p.kernel_h - p.stride_h;
      std::memmove(rows, rows + p.stride_h * row, kept * row * sizeof(uint32_t));
    }
    // Rows above and below the image take no part: an infinite weight makes no NaN there.
    const int64_t first = min_of(max_of<int64_t>(-top, 0), p.kernel_h);
    const int64_t last = max_of(min_of(p.kernel_h, p.height - top), first);
    for (int64_t h = max_of(first, kept); h < last; ++h) {
      stage_image_row(p, n, top + h, rows + h * row);
    }
    t.a = reinterpret_cast<const bfloat16*>(rows + first * row);
    t.pairs = (last - first) * pairs_a_row(p);
    if constexpr (kHasTiles) {
      stage(reinterpret_cast<const float*>(t.a), 1, p.out_width, pixels, pixel_pairs(p),
            p.out_width, t.pairs);
      t.a = reinterpret_cast<const bfloat16*>(pixels);
    }
    for (int64_t panel = 0; panel < pair_panel_count(p.out_channels); ++panel) {
      const Range columns = pair_panel_at(panel, p.out_channels);
      t.columns = columns.count;
      t.b = reinterpret_cast<const bfloat16*>(weight + first * pairs_a_row(p) * p.out_channels +
                                              columns.first);
      t.bias = p.bias ? bias + columns.first : nullptr;
      t.c = static_cast<bfloat16*>(p.output) + unit * elements + columns.first;
      pair_tile(tiles, t, p.activation);
    }
  }
}

}  // namespace fastconv::FASTCONV_ISA
