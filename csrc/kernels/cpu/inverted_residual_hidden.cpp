// Expand and depthwise of a panel of hidden channels, in L1.
#include "inverted_residual_hidden.h"

#include "depthwise_conv2d_paths.h"
#include "gemm.h"
#include "registry.h"

namespace fastconv::FASTCONV_ISA {
namespace {

constexpr int kColumns = 7;  // maps are 7, 14, 28, 56 or 112 wide

// Pixels of a strip; 28 and 112 were within 2 % on all blocks of MobileNetV2 and EfficientNet-Lite0
// (one core of a Zen 5).
constexpr int64_t kStripPixels = 56;

// Two rows of accumulators and weights fit 32 vector registers, not 16.
template <int S>
constexpr int kRows = kLanes<float> == 16 && S == 1 ? 2 : 1;

// A register tile: one channel vector x 7 columns x kRows rows.
struct Tile {
  const float* row[8];  // input rows at the first column of the image, null outside it
  int64_t pixel;        // elements from an input pixel to the next
  int64_t left, width;  // first input column, columns of the image
  const float* weight;  // at the first tap of this vector
  int64_t tap;          // elements from a tap to the next
  const float* bias;    // null or at this vector
  float* out;           // at the first pixel
  float* sum;           // of this vector over all pixels, or null
  int64_t out_row;      // elements from an output row to the next
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
    const float* row = t.row[i] + t.left * t.pixel;
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
  if (t.sum != nullptr) {
    V sum[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      sum[r] = acc[r * kColumns];
      if (r >= t.rows) sum[r] = V::set1(0);
#pragma GCC unroll 16
      for (int o = 1; o < kColumns; ++o) {
        if ((Edge && o >= t.columns) || r >= t.rows) continue;
        sum[r] = sum[r] + acc[r * kColumns + o];
      }
    }
    store(t.sum, load(t.sum) + (R == 2 ? sum[0] + sum[R - 1] : sum[0]));
  }
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
FASTCONV_INLINE void channel_vectors(const InvertedResidualParams& p, Tile t, int64_t channels) {
  constexpr int64_t L = kLanes<float>;
  for (int64_t c = 0; c < channels; c += L) {
    t.lanes = min_of(L, channels - c);
    t.lanes == L ? tile<K, S, Edge, true>(t) : tile<K, S, Edge, false>(t);
    for (const float*& row : t.row) row = row ? row + L : nullptr;
    t.weight += L, t.out += L;
    if (p.depthwise_bias != nullptr) t.bias += L;
    if (t.sum != nullptr) t.sum += L;
  }
}

template <int K, int S>
void depthwise(const InvertedResidualParams& p, int64_t panel, const RowSpan& span,
               const HiddenRing& ring, float* out, float* sums) {
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
  t.sum = sums;
  for (int64_t i = 0; sums != nullptr && i < kHiddenPanel; i += kLanes<float>) {
    store(sums + i, vec_t<float>::set1(0));
  }
  const float* input = p.input + span.image * p.height * p.width * p.hidden + first;
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
      interior ? channel_vectors<K, S, false>(p, t, channels)
               : channel_vectors<K, S, true>(p, t, channels);
    }
  }
}

// Rows [from, to) of the image into the ring.
void expand_rows(const InvertedResidualParams& p, int64_t panel, int64_t image, int64_t from,
                 int64_t to, const HiddenRing& ring) {
  constexpr float kInfinity = __builtin_inff();
  const bool clamps = is_clamp(p.activation);
  GemmTile<float> t{};
  t.a_row = p.in_channels, t.a_depth = 1, t.depth = p.in_channels;
  t.b = p.expand_weight + panel * kHiddenPanel, t.b_row = p.expand_row;
  t.bias = p.expand_bias ? p.expand_bias + panel * kHiddenPanel : nullptr;
  t.c_row = kHiddenPanel;
  t.columns = min_of(kHiddenPanel, p.hidden - panel * kHiddenPanel);
  t.low = clamps && p.activation != Activation::kNone ? 0 : -kInfinity;
  t.high = p.activation == Activation::kReLU6 ? 6 : kInfinity;
  while (from < to) {
    const int64_t slot = ring.slot(from), rows = min_of(to - from, ring.slots - slot);
    const int64_t pixels = rows * p.width;
    float* hidden = ring.rows + slot * p.width * kHiddenPanel;
    t.a = p.input + (image * p.height + from) * p.width * p.in_channels;
    t.c = hidden;
    t.rows = pixels;
    gemm_tile(t);
    if (!clamps) activate_in_place(p.activation, hidden, pixels * kHiddenPanel);
    from += rows;
  }
}

// The depthwise convolution of the ring, or of the input, at the rows of span into
// out[pixel][kHiddenPanel]. The rows it reads are in the ring.
void depthwise_rows(const InvertedResidualParams& p, int64_t panel, const RowSpan& span,
                    const HiddenRing& ring, float* out, float* sums) {
  if constexpr (kLanes<float> > 1) {
    const auto with_stride = [&](auto kernel) {
      return p.stride_h == 1 ? depthwise<kernel, 1>(p, panel, span, ring, out, sums)
                             : depthwise<kernel, 2>(p, panel, span, ring, out, sums);
    };
    if (p.kernel_h == 3) return with_stride(Constant<3>{});
    if (p.kernel_h == 5) return with_stride(Constant<5>{});
    return with_stride(Constant<7>{});
  }
}

constexpr int64_t kLine = 64;

// An input larger than the L2 cache is fetched a strip ahead, which the strided walk of the
// depthwise tile does not provoke. Batch 8, one core of a Zen 5: separable 32 -> 64, 112x112: 1.22
// times as fast, 128 -> 128, 56x56: 1.29, inverted 144 -> 24, 56x56: 1.05; 1 to 4 % slower where
// the input is in the caches.
constexpr int64_t kFetchedBytes = 2 << 20;

FASTCONV_INLINE bool fetches_ahead(const InvertedResidualShape& s) {
  return s.batch * s.height * s.width * s.in_channels * int64_t(sizeof(float)) >= kFetchedBytes;
}

}  // namespace

Strips strips_of(const InvertedResidualShape& s) {
  Strips g;
  const int64_t least = s.stride_h == 1 ? 2 : 1;  // the depthwise tile takes two rows
  g.rows = max_of(least, kStripPixels / s.out_width);
  for (int64_t rows = g.rows; rows < 2 * g.rows; ++rows) {  // an even number of equal strips
    if (s.out_height % (2 * rows) == 0) {
      g.rows = rows;
      break;
    }
  }
  g.rows = min_of(g.rows, s.out_height);
  g.count = div_up(s.out_height, g.rows);
  // Each strip adds `fresh` rows, which lie together where slots is a multiple of them and the
  // first of them lies in such a slot.
  const int64_t fresh = g.rows * s.stride_h;
  const int64_t reach = (g.rows - 1) * s.stride_h + s.kernel_h;
  g.slots = div_up(reach, fresh) * fresh;
  g.shift = ((s.pad_top + s.stride_h - s.kernel_h) % fresh + fresh) % fresh;
  if (g.slots >= s.height) g.slots = s.height, g.shift = 0;
  g.ring = s.expands ? align_floats(g.slots * s.width * kHiddenPanel) : 0;
  g.buffer = g.rows * s.out_width * kHiddenPanel;
  return g;
}

void hide_strip(const InvertedResidualParams& p, const Strips& g, const RowSpan& span, int64_t done,
                int64_t begin, int64_t end, float* rings, const HiddenOutput& out) {
  const int64_t from = max_of(done, span.first * p.stride_h - p.pad_top);
  const int64_t to = rows_read(p, span), row = p.width * p.in_channels * sizeof(float);
  const char* next = reinterpret_cast<const char*>(p.input) + (span.image * p.height + to) * row;
  const int64_t lines = fetches_ahead(p) ? g.rows * p.stride_h * row / kLine : 0;
  for (int64_t panel = begin; panel < end; ++panel) {
    const HiddenRing ring{rings + (panel - begin) * g.ring, g.slots, g.shift};
    if (p.expands) expand_rows(p, panel, span.image, from, to, ring);
    const Range part = part_of(lines, end - begin, panel - begin);
    for (int64_t i = 0; i < part.count; ++i) prefetch(next + (part.first + i) * kLine);
    float* sums = out.sums ? out.sums + panel * kHiddenPanel : nullptr;
    depthwise_rows(p, panel, span, ring, out.pixels + panel * out.panel, sums);
  }
}

}  // namespace fastconv::FASTCONV_ISA
