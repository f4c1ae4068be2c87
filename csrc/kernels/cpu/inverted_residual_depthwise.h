// The depthwise convolution of a panel of hidden channels: float32 in registers, T in memory.
#pragma once

#include "depthwise_conv2d_paths.h"
#include "inverted_residual_hidden.h"

namespace fastconv::FASTCONV_ISA {
namespace {

constexpr int kColumns = 7;  // maps are 7, 14, 28, 56 or 112 wide

// Two rows of accumulators and weights fit 32 vector registers, not 16.
template <int S>
constexpr int kRows = kLanes<float> == 16 && S == 1 ? 2 : 1;

// A register tile: one channel vector x 7 columns x kRows rows.
template <class T>
struct Tile {
  const T* row[8];             // input rows at the first column of the image, null outside it
  int64_t pixel;               // elements from an input pixel to the next
  int64_t left, width;         // first input column, columns of the image
  const float* weight;         // at the first tap of this vector
  int64_t tap;                 // elements from a tap to the next
  const float* bias;           // null or at this vector
  T* out;                      // at the first pixel
  float* sum;                  // of this vector over all pixels, or null
  int64_t out_row, out_pixel;  // elements from an output row or pixel to the next
  int64_t rows, columns, lanes;
  Activation activation;
};

// Edge: columns outside the image are skipped, columns outside the output are not stored.
template <int K, int S, bool Edge, bool Full, class T>
FASTCONV_INLINE void tile(const Tile<T>& t) {
  using V = vec_t<float>;
  constexpr int R = kRows<S>;
  V acc[R * kColumns];
  const V bias = t.bias ? load_lanes<Full>(t.bias, t.lanes) : V::set1(0);
#pragma GCC unroll 16
  for (int i = 0; i < R * kColumns; ++i) acc[i] = bias;

#pragma GCC unroll 16
  for (int i = 0; i < K + (R - 1) * S; ++i) {
    if (t.row[i] == nullptr) continue;
    const T* row = t.row[i] + t.left * t.pixel;
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
      store(t.out + r * t.out_row + o * t.out_pixel, acc[r * kColumns + o]);
    }
  }
}

template <int K, int S, bool Edge, class T>
FASTCONV_INLINE void channel_vectors(Tile<T> t, int64_t channels) {
  constexpr int64_t L = kLanes<float>;
  const int64_t pairs = div_up<int64_t>(channels, 2);  // behind an odd last channel a zero
  for (int64_t c = 0; c < 2 * pairs; c += L) {
    t.lanes = min_of(L, channels - c);
    t.lanes == L ? tile<K, S, Edge, true>(t) : tile<K, S, Edge, false>(t);
    for (const T*& row : t.row) row = row ? row + L : nullptr;
    t.weight += L, t.out += L;
    if (t.bias != nullptr) t.bias += L;
    if (t.sum != nullptr) t.sum += L;
  }
}

template <int K, int S, class Params, class T>
void depthwise(const Params& p, int64_t panel, const RowSpan& span, const HiddenRing<T>& ring,
               T* out, float* sums) {
  constexpr int R = kRows<S>;
  const int64_t most = hidden_panel_of(p), first = panel * most;
  const int64_t channels = min_of(most, p.hidden - first);
  Tile<T> t{};
  t.pixel = p.expands ? most : p.hidden;
  t.width = p.width;
  t.weight = p.depthwise_weight + first, t.tap = p.hidden;
  t.bias = p.depthwise_bias ? p.depthwise_bias + first : nullptr;
  t.activation = p.activation;
  t.out_pixel = most, t.out_row = p.out_width * most;
  t.sum = sums;
  for (int64_t i = 0; sums != nullptr && i < most; i += kLanes<float>) {
    store(sums + i, vec_t<float>::set1(0));
  }
  const T* input = p.input + span.image * p.height * p.width * p.hidden + first;
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
        t.row[i] = ring.rows + ring.slot(y) * p.width * most;
      } else {
        t.row[i] = input + y * p.width * p.hidden;
      }
    }
    for (int64_t ow = 0; ow < p.out_width; ow += kColumns) {
      t.left = ow * S - p.pad_left;
      t.columns = p.out_width - ow;
      t.out = out + (r * p.out_width + ow) * most;
      const bool interior =
          t.left >= 0 && t.left + (kColumns - 1) * S + K <= p.width && kColumns <= t.columns;
      interior ? channel_vectors<K, S, false>(t, channels)
               : channel_vectors<K, S, true>(t, channels);
    }
  }
}

// The depthwise convolution of the ring, or of the input, at the rows of span into
// out[pixel][hidden_panel_of], and their sums, unless null, to sums[hidden_panel_of]. The rows it
// reads are in the ring.
template <class Params, class T>
void depthwise_rows(const Params& p, int64_t panel, const RowSpan& span, const HiddenRing<T>& ring,
                    T* out, float* sums) {
  if constexpr (kLanes<float> > 1 || kHasTiles) {
    const auto with_stride = [&](auto kernel) {
      return p.stride_h == 1 ? depthwise<kernel, 1>(p, panel, span, ring, out, sums)
                             : depthwise<kernel, 2>(p, panel, span, ring, out, sums);
    };
    if (p.kernel_h == 3) return with_stride(Constant<3>{});
    if (p.kernel_h == 5) return with_stride(Constant<5>{});
    return with_stride(Constant<7>{});
  }
}

}  // namespace
}  // namespace fastconv::FASTCONV_ISA
