// Forward, channels_last: a register tile of one channel vector x 7 columns x 1 or 2 rows.
// An input vector is loaded once and feeds up to k taps of each output row; the weights of the
// current kernel rows stay in registers. 3x3 takes 45 loads for 126 FMAs, so it is not load bound.
#include "depthwise_conv2d_paths.h"

namespace fastconv::FASTCONV_ISA {
namespace {

constexpr int kColumns = 7;  // maps are 7, 14, 28, 56 or 112 wide

// Two rows of accumulators and weights fit 32 vector registers, not 16.
template <int S>
constexpr int kRows = kLanes<float> == 16 && S == 1 ? 2 : 1;

// Edge: columns outside the image are skipped, columns outside the output are not stored.
template <int K, int S, bool Edge, bool Full, class T>
FASTCONV_INLINE void tile(const DepthwiseConv2dParams& p, int64_t image, int64_t oh, int64_t rows,
                          int64_t ow, int64_t c, int64_t n, bool streams) {
  using V = vec_t<T>;
  constexpr int R = kRows<S>;
  const DepthwiseConv2dShape& s = p.shape;
  const int64_t C = s.channels;
  const int64_t top = oh * S - s.pad_top, left = ow * S - s.pad_left;
  const T* input = static_cast<const T*>(p.input) + image * s.height * s.width * C + c;
  const T* weight = static_cast<const T*>(p.weight) + c;

  V acc[R * kColumns];
  const V bias = p.bias ? load_lanes<Full>(static_cast<const T*>(p.bias) + c, n) : V::set1(0);
#pragma GCC unroll 16
  for (int i = 0; i < R * kColumns; ++i) acc[i] = bias;

#pragma GCC unroll 16
  for (int i = 0; i < K + (R - 1) * S; ++i) {
    if (!inside(top + i, s.height)) continue;
    const T* row = input + ((top + i) * s.width + left) * C;
    V w[R][K];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const int kh = i - r * S;
      if (kh < 0 || kh >= K) continue;
#pragma GCC unroll 16
      for (int kw = 0; kw < K; ++kw) w[r][kw] = load_lanes<Full>(weight + (kh * K + kw) * C, n);
    }
#pragma GCC unroll 32
    for (int j = 0; j < (kColumns - 1) * S + K; ++j) {
      if (Edge && !inside(left + j, s.width)) continue;
      const V x = load_lanes<Full>(row + j * C, n);
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

  activate(p.activation, acc);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    if (r >= rows) continue;
    T* output =
        static_cast<T*>(p.output) + ((image * s.out_height + oh + r) * s.out_width + ow) * C + c;
#pragma GCC unroll 16
    for (int o = 0; o < kColumns; ++o) {
      if (Edge && ow + o >= s.out_width) continue;
      if (Full && streams) {
        stream(output + o * C, acc[r * kColumns + o]);
      } else {
        store_lanes<Full>(output + o * C, acc[r * kColumns + o], n);
      }
    }
  }
}

template <int K, int S, bool Edge, class T>
void channel_vectors(const DepthwiseConv2dParams& p, const RowsUnit& u, int64_t oh, int64_t rows,
                     int64_t ow, bool streams) {
  constexpr int L = kLanes<T>;
  const int64_t end = u.channel + u.channels;
  int64_t c = u.channel;
  for (; c + L <= end; c += L) tile<K, S, Edge, true, T>(p, u.image, oh, rows, ow, c, L, streams);
  if (c < end) tile<K, S, Edge, false, T>(p, u.image, oh, rows, ow, c, end - c, false);
}

// Column tiles outside, channel vectors inside: addresses run along contiguous memory.
template <int K, int S, class T>
void run(const DepthwiseConv2dParams& p, int64_t begin, int64_t end) {
  const DepthwiseConv2dShape& s = p.shape;
  const bool streams = wants_stream<T>(p.output, s.batch * s.out_height * s.out_width, s.channels);
  for (int64_t unit = begin; unit < end; ++unit) {
    const RowsUnit u = rows_unit(unit, s.channels, s.out_height);
    for (int64_t r = 0; r < u.rows; r += kRows<S>) {
      for (int64_t ow = 0; ow < s.out_width; ow += kColumns) {
        const int64_t left = ow * S - s.pad_left;
        const bool interior =
            left >= 0 && left + (kColumns - 1) * S + K <= s.width && ow + kColumns <= s.out_width;
        if (interior) {
          channel_vectors<K, S, false, T>(p, u, u.row + r, u.rows - r, ow, streams);
        } else {
          channel_vectors<K, S, true, T>(p, u, u.row + r, u.rows - r, ow, streams);
        }
      }
    }
  }
  if (streams) stream_fence();
}

}  // namespace

void depthwise_nhwc_tiles(const DepthwiseConv2dParams& p, int64_t begin, int64_t end) {
  dispatch_tile(p.shape, [&](auto kernel, auto stride, auto element) {
    run<kernel, stride, decltype(element)>(p, begin, end);
  });
}

}  // namespace fastconv::FASTCONV_ISA
