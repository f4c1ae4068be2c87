// The depthwise convolution of a panel of hidden channels: float32 in registers, T in memory.
#pragma once

#include <type_traits>

#include "depthwise_conv2d_paths.h"
#include "inverted_residual_hidden.h"
#include "simd/register_tiles.h"

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
  const float* weight;         // at the first tap
  int64_t tap;                 // elements from a tap to the next
  const float* bias;           // or null
  T* out;                      // at the first pixel
  float* sum;                  // over all pixels, or null
  int64_t out_row, out_pixel;  // elements from an output row or pixel to the next
  int64_t rows, columns;
  Activation activation;
};

// Which columns that a tile reads lie outside the image: as many as the padding of a window that
// keeps the size, or others, and columns of the output besides.
enum class Outside { kNone, kLeft, kRight, kBoth, kAny };

template <int K, int S>
constexpr int kColumnsRead = (kColumns - 1) * S + K;
template <int K>
constexpr int kOutsideLeft = K / 2;
template <int K, int S>
constexpr int kOutsideRight = K / 2 - S + 1;

template <int K, int S>
FASTCONV_INLINE Outside outside(int64_t left, int64_t width, int64_t columns) {
  const int64_t before = max_of<int64_t>(-left, 0);
  const int64_t behind = max_of<int64_t>(left + kColumnsRead<K, S> - width, 0);
  if (columns < kColumns || (before > 0 && before != kOutsideLeft<K>) ||
      (behind > 0 && behind != kOutsideRight<K, S>)) {
    return Outside::kAny;
  }
  if (before > 0) return behind > 0 ? Outside::kBoth : Outside::kLeft;
  return behind > 0 ? Outside::kRight : Outside::kNone;
}

// The vector from channel c on. kPixel: elements from pixel to pixel of input and output, 0 where
// only the tile knows.
template <int K, int S, Outside kOutside, bool Full, int kPixel, class T>
FASTCONV_INLINE void tile(const Tile<T>& t, int64_t c, int64_t lanes) {
  using V = vec_t<float>;
  constexpr int R = kRows<S>;
  constexpr bool kSkipsLeft = kOutside == Outside::kLeft || kOutside == Outside::kBoth;
  constexpr bool kSkipsRight = kOutside == Outside::kRight || kOutside == Outside::kBoth;
  constexpr bool kAny = kOutside == Outside::kAny;
  constexpr int kFirst = kSkipsLeft ? kOutsideLeft<K> : 0;
  constexpr int kEnd = kColumnsRead<K, S> - (kSkipsRight ? kOutsideRight<K, S> : 0);
  const int64_t pixel = kPixel > 0 ? kPixel : t.pixel;
  const int64_t out_pixel = kPixel > 0 ? kPixel : t.out_pixel;
  V acc[R * kColumns];
  const V bias = t.bias ? load_lanes<Full>(t.bias + c, lanes) : V::set1(0);
#pragma GCC unroll 16
  for (int i = 0; i < R * kColumns; ++i) acc[i] = bias;

#pragma GCC unroll 16
  for (int i = 0; i < K + (R - 1) * S; ++i) {
    if (t.row[i] == nullptr) continue;
    const T* row = t.row[i] + t.left * pixel + c;
    forget_origin(row);
    V w[R][K];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const int kh = i - r * S;
      if (kh < 0 || kh >= K) continue;
      const float* weight = t.weight + kh * K * t.tap + c;
#pragma GCC unroll 16
      for (int kw = 0; kw < K; ++kw) {
        w[r][kw] = load_lanes<Full>(weight, lanes);
        weight += t.tap;
        forget_origin(weight);
      }
    }
#pragma GCC unroll 32
    for (int j = kFirst; j < kEnd; ++j) {
      if (kAny && !inside(t.left + j, t.width)) continue;
      V x = load_lanes<Full>(row + j * pixel, lanes);
      keep_loaded(x);
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
        if ((kAny && o >= t.columns) || r >= t.rows) continue;
        sum[r] = sum[r] + acc[r * kColumns + o];
      }
    }
    store(t.sum + c, load(t.sum + c) + (R == 2 ? sum[0] + sum[R - 1] : sum[0]));
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    if (r >= t.rows) continue;
    T* out = t.out + r * t.out_row + c;
    forget_origin(out);
#pragma GCC unroll 16
    for (int o = 0; o < kColumns; ++o) {
      if (kAny && o >= t.columns) continue;
      store(out + o * out_pixel, acc[r * kColumns + o]);
    }
  }
}

// Whole vectors of pixels that are kPixel apart.
template <int K, int S, Outside kOutside, int kPixel, class T>
void known_vectors(const Tile<T>& t) {
  for (int64_t c = 0; c < kPixel; c += kLanes<float>) {
    tile<K, S, kOutside, true, kPixel>(t, c, kLanes<float>);
  }
}

template <int K, int S, Outside kOutside, class T>
void any_vectors(const Tile<T>& t, int64_t channels) {
  constexpr int64_t L = kLanes<float>;
  const int64_t pairs = div_up<int64_t>(channels, 2);  // behind an odd last channel a zero
  for (int64_t c = 0; c < 2 * pairs; c += L) {
    const int64_t lanes = min_of(L, channels - c);
    lanes == L ? tile<K, S, kOutside, true, 0>(t, c, lanes)
               : tile<K, S, kOutside, false, 0>(t, c, lanes);
  }
}

// Whether it was done. Addresses in steps that are not known want more registers than there are.
// Fraction of the fma peak in L1, without / with known ones, 3x3 windows of stride 1: 0.49 / 0.56,
// of stride 2: 0.35 / 0.46, 5x5: 0.67 / 0.75 and 0.46 / 0.68, on maps of 7x7 0.76 / 0.87 (one core
// of an Intel Xeon with AMX).
template <int K, int S, int kPixel, class T>
bool known_tiles(const Tile<T>& t, int64_t channels, Outside beyond) {
  if (t.pixel != kPixel || t.out_pixel != kPixel || channels != kPixel) return false;
  if (beyond == Outside::kNone) return known_vectors<K, S, Outside::kNone, kPixel>(t), true;
  if (beyond == Outside::kLeft) return known_vectors<K, S, Outside::kLeft, kPixel>(t), true;
  if (beyond == Outside::kRight) return known_vectors<K, S, Outside::kRight, kPixel>(t), true;
  if (beyond == Outside::kBoth) return known_vectors<K, S, Outside::kBoth, kPixel>(t), true;
  return false;
}

template <int K, int S, class T>
void tiles(const Tile<T>& t, int64_t channels) {
  const Outside beyond = outside<K, S>(t.left, t.width, t.columns);
  if constexpr (K < 7 && kLanes<float> > 1) {  // 7x7 windows are rare, and long
    if (known_tiles<K, S, kHiddenPanel>(t, channels, beyond)) return;
    if constexpr (kLanes<float> == 16 && std::is_same_v<T, float>) {
      if (known_tiles<K, S, kWideHiddenPanel>(t, channels, beyond)) return;
    }
  }
  beyond == Outside::kNone ? any_vectors<K, S, Outside::kNone>(t, channels)
                           : any_vectors<K, S, Outside::kAny>(t, channels);
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
      tiles<K, S>(t, channels);
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
