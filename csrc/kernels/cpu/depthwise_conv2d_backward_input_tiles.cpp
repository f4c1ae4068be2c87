// Gradient of the input at stride 2, channels_last, square kernels of 3, 5 and 7: a register tile
// of one channel vector x 7 pairs of columns of one row. Even and odd columns read different taps;
// a gradient is loaded once for both.
#include "depthwise_conv2d_paths.h"

namespace fastconv::FASTCONV_ISA {
namespace {

constexpr int kPairs = 7;  // maps are 14, 28, 56 or 112 wide

// One row of the input's gradient, and the kernel rows that read it.
template <class T>
struct Row {
  const DepthwiseConv2dShape& s;
  const T* grad_output;  // row read by the first tap, column 0, channel 0
  const T* weight;       // of that tap
  int64_t taps;  // kernel rows: each next one is 2 below in the weights, 1 up in grad_output
  T* grad_input;
  bool streams;
};

// Columns 2 m, 2 m + 1 for the pairs m from `pair` on. PadOdd: pad_left is.
template <int K, bool PadOdd, Columns kColumnsThere, bool Full, class T>
FASTCONV_INLINE void tile(const Row<T>& row, int64_t pair, int64_t c, int64_t n) {
  using V = vec_t<T>;
  constexpr bool kAny = kColumnsThere == Columns::kAny;
  constexpr int kBefore =
      (K - 1) / 2 - PadOdd;  // columns of grad_output read before the pair's own
  constexpr int kGrads = kBefore + kPairs + PadOdd;
  const int64_t C = row.s.channels, first = pair + row.s.pad_left / 2 - kBefore;
  V acc[kPairs][2];
#pragma GCC unroll 16
  for (int m = 0; m < kPairs; ++m) acc[m][0] = acc[m][1] = V::set1(0);

  for (int64_t tap = 0; tap < row.taps; ++tap) {
    const Pixels<kGrads, const T> grad(row.grad_output - (tap * row.s.out_width - first) * C + c,
                                       C);
    const Pixels<K, const T> weight(row.weight + tap * 2 * K * C + c, C);
    V w[K];
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) w[k] = load_lanes<Full>(weight[k], n);
#pragma GCC unroll 16
    for (int j = 0; j < kGrads; ++j) {
      const bool padded =
          kColumnsThere == Columns::kPadded && (j < kBefore || j >= kBefore + kPairs);
      if ((kAny || padded) && !inside(first + j, row.s.out_width)) continue;
      const V g = load_lanes<Full>(grad[j], n);
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k) {
        const int odd = (k + PadOdd) % 2;  // whether tap k is read by the odd column of a pair
        const int m = j - kBefore + (k - PadOdd - odd) / 2;
        if (m < 0 || m >= kPairs) continue;
        acc[m][odd] = fma(g, w[k], acc[m][odd]);
      }
    }
  }

  const Pixels<2 * kPairs, T> out(row.grad_input + 2 * pair * C + c, C);
  const int64_t columns = row.s.width - 2 * pair;
  if (Full && row.streams) {
#pragma GCC unroll 16
    for (int i = 0; i < 2 * kPairs; ++i) {
      if (kAny && i >= columns) break;
      stream(out[i], acc[i / 2][i % 2]);
    }
    return;
  }
#pragma GCC unroll 16
  for (int i = 0; i < 2 * kPairs; ++i) {
    if (kAny && i >= columns) break;
    store_lanes<Full>(out[i], acc[i / 2][i % 2], n);
  }
}

template <int K, bool PadOdd, Columns kColumnsThere, class T>
void channel_vectors(const Row<T> row, int64_t pair, int64_t c, int64_t last) {
  constexpr int L = kLanes<T>;
  for (; c + L <= last; c += L) tile<K, PadOdd, kColumnsThere, true>(row, pair, c, L);
  if (c < last) tile<K, PadOdd, kColumnsThere, false>(row, pair, c, last - c);
}

template <int K, class T>
FASTCONV_INLINE Row<T> row_of(const DepthwiseConv2dBackwardInputParams& p, int64_t image,
                              int64_t ih, bool streams) {
  const DepthwiseConv2dShape& s = p.shape;
  // Output rows oh = (ih + pad_top - kh) / 2, falling from that of the first kernel row.
  const int64_t odd = (ih + s.pad_top) & 1, top = (ih + s.pad_top - odd) / 2;
  const int64_t skip = max_of<int64_t>(0, top - s.out_height + 1);
  const int64_t taps = min_of((K + 1 - odd) / 2, top + 1);
  const T* grad_output = static_cast<const T*>(p.grad_output);
  T* grad_input = static_cast<T*>(p.grad_input);
  return {
      s,
      grad_output + (image * s.out_height + top - skip) * s.out_width * s.channels,
      static_cast<const T*>(p.weight) + (odd + 2 * skip) * K * s.channels,
      taps - skip,
      grad_input + (image * s.height + ih) * s.width * s.channels,
      streams,
  };
}

template <int K, bool PadOdd, class T>
void run(const DepthwiseConv2dBackwardInputParams& p, int64_t begin, int64_t end) {
  constexpr int kBefore = (K - 1) / 2 - PadOdd;
  const DepthwiseConv2dShape& s = p.shape;
  const bool streams = wants_stream<T>(p.grad_input, s.batch * s.height * s.width, s.channels);
  for (int64_t unit = begin; unit < end;) {
    const RowsUnit u = rows_unit(unit, end, s.channels, s.height);
    const int64_t last = u.channel + u.channels;
    for (int64_t pair = 0; 2 * pair < s.width; pair += kPairs) {
      const int64_t first = pair + s.pad_left / 2, after = s.out_width - first - kPairs;
      for (int64_t ih = u.row; ih < u.row + u.rows; ++ih) {
        const Row<T> row = row_of<K, T>(p, u.image, ih, streams);
        if (2 * (pair + kPairs) > s.width || after < 0 || first < 0) {
          channel_vectors<K, PadOdd, Columns::kAny>(row, pair, u.channel, last);
        } else if (first < kBefore || after < PadOdd) {
          channel_vectors<K, PadOdd, Columns::kPadded>(row, pair, u.channel, last);
        } else {
          channel_vectors<K, PadOdd, Columns::kInside>(row, pair, u.channel, last);
        }
      }
    }
    unit += u.units;
  }
  if (streams) stream_fence();
}

}  // namespace

void depthwise_backward_input_tiles(const DepthwiseConv2dBackwardInputParams& p, int64_t begin,
                                    int64_t end) {
  dispatch_tile(p.shape, [&](auto kernel, auto, auto element) {
    using T = decltype(element);
    return p.shape.pad_left % 2 ? run<kernel, true, T>(p, begin, end)
                                : run<kernel, false, T>(p, begin, end);
  });
}

}  // namespace fastconv::FASTCONV_ISA
