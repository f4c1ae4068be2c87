// Expand and depthwise of a panel of hidden channels: bfloat16 in memory, float32 in registers.
#include "inverted_residual_bfloat16_hidden.h"

#include "depthwise_conv2d_paths.h"
#include "gemm_bfloat16.h"

namespace fastconv::FASTCONV_ISA {
namespace {

using Params = InvertedResidualBfloat16Params;

constexpr int kColumns = 7;  // maps are 7, 14, 28, 56 or 112 wide

// Two rows of accumulators and weights fit 32 vector registers, not 16.
template <int S>
constexpr int kRows = kLanes<float> == 16 && S == 1 ? 2 : 1;

// A register tile: one channel vector x 7 columns x kRows rows.
struct Tile {
  const bfloat16* row[8];  // input rows at the first column of the image, null outside it
  int64_t pixel;           // elements from an input pixel to the next
  int64_t left, width;     // first input column, columns of the image
  const float* weight;     // at the first tap of this vector
  int64_t tap;             // elements from a tap to the next
  const float* bias;       // null or at this vector
  bfloat16* out;           // at the first pixel
  int64_t out_row;         // elements from an output row to the next
  int64_t rows, columns, lanes;
  Activation activation;
};

// Edge: columns outside the image are skipped, columns outside the output are not stored.
template <int K, int S, bool Edge, bool Full>
FASTCONV_INLINE void tile(const Tile& t) {
  using V = vec_t<float>;
  constexpr int R = kRows<S>;
  V acc[R * kColumns];
  const V bias = t.bias ? load_lanes<Full>(t.bias, t.lanes) : V::set1(0);
#pragma GCC unroll 16
  for (int i = 0; i < R * kColumns; ++i) acc[i] = bias;

#pragma GCC unroll 16
  for (int i = 0; i < K + (R - 1) * S; ++i) {
    if (t.row[i] == nullptr) continue;
    const bfloat16* row = t.row[i] + t.left * t.pixel;
    V w[R][K];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const int kh = i - r * S;
      if (kh < 0 || kh >= K) continue;
#pragma GCC unroll 16
      for (int kw = 0; kw < K; ++kw) {
        w[r][kw] = load_lanes<Full>(t.weight + (kh * K + kw) * t.tap, t.lanes);
      }
    }
#pragma GCC unroll 32
    for (int j = 0; j < (kColumns - 1) * S + K; ++j) {
      if (Edge && !inside(t.left + j, t.width)) continue;
      const V x = load_lanes<Full>(row + j * t.pixel, t.lanes);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const int kh = i - r * S;
        if (kh < 0 || kh >= K) continue;
#pragma GCC unroll 16
        for (int o = 0; o < kColumns; ++o) {
          const int kw = j - o * S;
          if (kw < 0 || kw >= K) continue;
          acc[r * kColumns + o] = fma(x, w[r][kw], acc[r * kColumns + o]);
        }
      }
    }
  }

  activate(t.activation, acc);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    if (r >= t.rows) continue;
#pragma GCC unroll 16
    for (int o = 0; o < kColumns; ++o) {
      if (Edge && o >= t.columns) continue;
      store(t.out + r * t.out_row + o * kHiddenPanel, acc[r * kColumns + o]);
    }
  }
}

template <int K, int S, bool Edge>
FASTCONV_INLINE void channel_vectors(Tile t, int64_t channels) {
  constexpr int64_t L = kLanes<float>;
  for (int64_t c = 0; c < channels; c += L) {
    t.lanes = min_of(L, channels - c);
    t.lanes == L ? tile<K, S, Edge, true>(t) : tile<K, S, Edge, false>(t);
    for (const bfloat16*& row : t.row) row = row ? row + L : nullptr;
    t.weight += L, t.out += L;
    if (t.bias != nullptr) t.bias += L;
  }
}

template <int K, int S>
void depthwise(const Params& p, int64_t panel, const RowSpan& span, const Bfloat16Ring& ring,
               bfloat16* out) {
  constexpr int R = kRows<S>;
  const int64_t first = panel * kHiddenPanel;
  const int64_t channels = min_of(kHiddenPanel, p.hidden - first);
  Tile t{};
  t.pixel = p.expands ? kHiddenPanel : p.hidden;
  t.width = p.width;
  t.weight = p.depthwise_weight + first, t.tap = p.hidden;
  t.bias = p.depthwise_bias ? p.depthwise_bias + first : nullptr;
  t.activation = p.activation;
  t.out_row = p.out_width * kHiddenPanel;
  const bfloat16* input = p.input + span.image * p.height * p.width * p.hidden + first;
  for (int64_t r = 0; r < span.count; r += R) {
    const int64_t top = (span.first + r) * S - p.pad_top;
    t.rows = span.count - r;
    for (int64_t i = 0; i < K + (R - 1) * S; ++i) {
      const int64_t y = top + i;
      // Rows that only a missing second output row would read may not be in the ring.
      const bool read = inside(y, p.height) && i < K + (t.rows - 1) * S;
      if (!read) {
        t.row[i] = nullptr;
      } else if (p.expands) {
        t.row[i] = ring.rows + ring.slot(y) * p.width * kHiddenPanel;
      } else {
        t.row[i] = input + y * p.width * p.hidden;
      }
    }
    for (int64_t ow = 0; ow < p.out_width; ow += kColumns) {
      t.left = ow * S - p.pad_left;
      t.columns = p.out_width - ow;
      t.out = out + (r * p.out_width + ow) * kHiddenPanel;
      const bool interior =
          t.left >= 0 && t.left + (kColumns - 1) * S + K <= p.width && kColumns <= t.columns;
      interior ? channel_vectors<K, S, false>(t, channels)
               : channel_vectors<K, S, true>(t, channels);
    }
  }
}

}  // namespace

void expand_rows(const Params& p, int64_t panel, int64_t image, int64_t from, int64_t to,
                 const Bfloat16Ring& ring) {
  PairTile<bfloat16> t{};
  t.a_row = p.in_channels, t.a_pair = 2, t.pairs = p.in_channels / 2;
  t.b = p.expand_weight + 2 * panel * kHiddenPanel, t.b_row = 2 * p.expand_row;
  t.bias = p.expand_bias ? p.expand_bias + panel * kHiddenPanel : nullptr;
  t.c_row = kHiddenPanel;
  t.columns = min_of(kHiddenPanel, p.hidden - panel * kHiddenPanel);
  set_clamp(t, p.activation);
  while (from < to) {
    const int64_t slot = ring.slot(from), rows = min_of(to - from, ring.slots - slot);
    t.a = p.input + (image * p.height + from) * p.width * p.in_channels;
    t.c = ring.rows + slot * p.width * kHiddenPanel;
    t.rows = rows * p.width;
    pair_tile(t, p.activation);
    from += rows;
  }
}

void depthwise_rows(const Params& p, int64_t panel, const RowSpan& span, const Bfloat16Ring& ring,
                    bfloat16* out) {
  if constexpr (kLanes<float> > 1) {
    const auto with_stride = [&](auto kernel) {
      return p.stride_h == 1 ? depthwise<kernel, 1>(p, panel, span, ring, out)
                             : depthwise<kernel, 2>(p, panel, span, ring, out);
    };
    if (p.kernel_h == 3) return with_stride(Constant<3>{});
    if (p.kernel_h == 5) return with_stride(Constant<5>{});
    return with_stride(Constant<7>{});
  }
}

}  // namespace fastconv::FASTCONV_ISA
