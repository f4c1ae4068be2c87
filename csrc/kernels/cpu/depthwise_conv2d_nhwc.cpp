// Forward, channels_last: a register tile of one channel vector x 7 columns x 1 or 2 rows.
// An input vector is loaded once and feeds up to k taps of each output row; the weights of the
// current kernel rows stay in registers. 3x3 takes 54 loads for 126 FMAs, so it is not load bound.
// Figures: one core of a Zen 5, the kernel alone.
#include "depthwise_conv2d_nhwc_tile.h"

namespace fastconv::FASTCONV_ISA {
namespace {

// Input and output of this size come from memory: rows are walked from end to end, all channels at
// once, and those below are asked for ahead of their use, as they lie. On one core of a Zen 5, us
// of 16x144x56x56 3x3 without that / pixel by pixel in groups of 8 rows and blocks of channels /
// so: 1130 / 846 / 766; 16x96x112x112 stride 2, whose input comes from DRAM, 2950 / 2900 / 2940.
constexpr int64_t kPrefetchBytes = 32 << 20;

// Asks for as much as a tile reads first, which is what all tiles of a row pair share evenly.
template <int S, class T>
constexpr int kAhead = kRows * S * kColumns * S * kLanes<T>;

template <int S, class T>
FASTCONV_INLINE void prefetch_ahead(const T* p) {
  constexpr int kLine = 64 / sizeof(T);
#pragma GCC unroll 64
  for (int i = 0; i < kAhead<S, T>; i += kLine) prefetch(p + i);
}

template <int K, int S, Columns kColumnsThere, bool Full, class T, class W>
FASTCONV_INLINE void tile(const Window<T, W>& window, const Place<T>& at, int64_t c, int64_t n) {
  using V = vec_t<T>;
  constexpr int kInputs = (kColumns - 1) * S + K;
  constexpr bool kAny = kColumnsThere == Columns::kAny;

  V acc[kRows * kColumns];
  const V bias = window.bias ? load_lanes<Full>(window.bias + c, n) : V::set1(0);
#pragma GCC unroll 16
  for (int i = 0; i < kRows * kColumns; ++i) acc[i] = bias;

#pragma GCC unroll 16
  for (int i = 0; i < K + (kRows - 1) * S; ++i) {
    if (i < at.first_row || i >= at.last_row) continue;
    const Pixels<kInputs, const T> row(at.input + i * window.input_row + c, window.pixel);
    V w[kRows][K];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const int kh = i - r * S;
      if (kh < 0 || kh >= K) continue;
      const Pixels<K, const W> taps(window.weight + kh * K * window.pixel + c, window.pixel);
#pragma GCC unroll 16
      for (int kw = 0; kw < K; ++kw) w[r][kw] = load_lanes<Full>(taps[kw], n);
    }
#pragma GCC unroll 32
    for (int j = 0; j < kInputs; ++j) {
      const bool padded = kColumnsThere == Columns::kPadded && (j < K / 2 || j >= kInputs - K / 2);
      if ((kAny || padded) && (j < at.first_column || j >= at.last_column)) continue;
      const V x = load_lanes<Full>(row[j], n);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
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

  activate(window.activation, acc);
#pragma GCC unroll 2
  for (int r = 0; r < kRows; ++r) {
    if (r >= at.rows) break;
    const Pixels<kColumns, T> row(at.output + r * window.output_row + c, window.pixel);
    if (Full && window.streams) {
#pragma GCC unroll 16
      for (int o = 0; o < kColumns; ++o) {
        if (kAny && o >= at.columns) break;
        stream(row[o], acc[r * kColumns + o]);
      }
      continue;
    }
#pragma GCC unroll 16
    for (int o = 0; o < kColumns; ++o) {
      if (kAny && o >= at.columns) break;
      store_lanes<Full>(row[o], acc[r * kColumns + o], n);
    }
  }
}

template <int K, int S, Columns kColumnsThere, class T, class W>
void channel_vectors(const Window<T, W> window, const Place<T> at, int64_t c, int64_t last) {
  constexpr int L = kLanes<T>;
  for (; c + L <= last; c += L) {
    if (window.prefetches) prefetch_ahead<S>(at.ahead + c / L * kAhead<S, T>);
    tile<K, S, kColumnsThere, true>(window, at, c, L);
  }
  if (c < last) tile<K, S, kColumnsThere, false>(window, at, c, last - c);
}

// Units in the order of memory: the blocks of channels within a pair of rows, as many as come.
FASTCONV_INLINE RowsUnit row_pair_unit(int64_t unit, int64_t end, int64_t channels,
                                       int64_t height) {
  const int64_t blocks = depthwise_channel_blocks(channels);
  const int64_t row_units = div_up(height, kDepthwiseUnitRows), pair = unit / blocks;
  const int64_t units = min_of(blocks - unit % blocks, end - unit);
  const ChannelBlock first = depthwise_channel_block(channels, unit % blocks);
  const ChannelBlock last = depthwise_channel_block(channels, unit % blocks + units - 1);
  const int64_t row = pair % row_units * kDepthwiseUnitRows;
  const int64_t count = last.first + last.count - first.first;
  return {pair / row_units, row,   min_of(kDepthwiseUnitRows, height - row),
          first.first,      count, units};
}

// Column tiles outside, then rows, channel vectors inside: what two rows share is still in L1.
template <int K, int S, class T, class W>
void run(const DepthwiseConv2dParams& p, int64_t begin, int64_t end) {
  constexpr int kInputs = (kColumns - 1) * S + K;
  const DepthwiseConv2dShape& s = p.shape;
  const int64_t C = s.channels, outputs = s.batch * s.out_height * s.out_width;
  const int64_t bytes = (s.batch * s.height * s.width + outputs) * C * int64_t(sizeof(T));
  const Window<T, W> window = {static_cast<const W*>(p.weight),
                               static_cast<const T*>(p.bias),
                               C,
                               s.width * C,
                               s.out_width * C,
                               p.activation,
                               wants_stream<T>(p.output, outputs, C),
                               bytes >= kPrefetchBytes};
  const auto tiles = [&](const RowsUnit& u, int64_t oh, int64_t ow) {
    const int64_t top = oh * S - s.pad_top, left = ow * S - s.pad_left;
    const T* input = static_cast<const T*>(p.input);
    const Place<T> at = {
        input + ((u.image * s.height + top) * s.width + left) * C,
        -top,
        s.height - top,
        -left,
        s.width - left,
        static_cast<T*>(p.output) + ((u.image * s.out_height + oh) * s.out_width + ow) * C,
        u.row + u.rows - oh,
        s.out_width - ow,
        input + (u.image * s.height + top + K + (kRows - 1) * S) * s.width * C +
            ow / kColumns * (C / kLanes<T>)*kAhead<S, T>};
    const int64_t last = u.channel + u.channels;
    int64_t c = u.channel;
    if constexpr (K == 3) c = tiles_at_known_places<S>(window, at, c, last);
    if (at.columns < kColumns || at.first_column > K / 2 || at.last_column < kInputs - K / 2) {
      return channel_vectors<K, S, Columns::kAny>(window, at, c, last);
    }
    if (at.first_column > 0 || at.last_column < kInputs) {
      return channel_vectors<K, S, Columns::kPadded>(window, at, c, last);
    }
    channel_vectors<K, S, Columns::kInside>(window, at, c, last);
  };
  for (int64_t unit = begin; unit < end;) {
    const RowsUnit u = window.prefetches ? row_pair_unit(unit, end, C, s.out_height)
                                         : rows_unit(unit, end, C, s.out_height);
    for (int64_t ow = 0; ow < s.out_width; ow += kColumns) {
      for (int64_t r = 0; r < u.rows; r += kRows) tiles(u, u.row + r, ow);
    }
    unit += u.units;
  }
  if (window.streams) stream_fence();
}

}  // namespace

void depthwise_nhwc_tiles(const DepthwiseConv2dParams& p, int64_t begin, int64_t end) {
  dispatch_tile(p.shape, [&](auto kernel, auto stride, auto element) {
    using T = decltype(element);
    if (sizeof(T) == 2 && depthwise_conv2d_widens_weight(p.shape)) {
      return run<kernel, stride, T, accumulate_t<T>>(p, begin, end);
    }
    run<kernel, stride, T, T>(p, begin, end);
  });
}

}  // namespace fastconv::FASTCONV_ISA
