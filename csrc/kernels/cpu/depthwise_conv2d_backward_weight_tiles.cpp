// Gradient of weight and bias, channels_last, square kernels of 3, 5 and 7: the taps of one channel
// vector are accumulators in registers while a strip of output rows is walked, and so are 7
// gradients of a row, so that an input vector is loaded once for all taps of a kernel row.
#include "depthwise_conv2d_paths.h"
#include "simd/vectors.h"

namespace fastconv::FASTCONV_ISA {
namespace {

constexpr int kColumns = 7;  // maps are 7, 14, 28, 56 or 112 wide

// Kernel rows a pass: their sums share the registers with the gradients and an input vector. With
// 16 registers the gradients are operands in memory.
template <int K>
constexpr int kPasses = div_up(K, (kLanes<float> == 16 ? 23 : 12) / K);

// Rows walked with one channel vector. On one core of a Zen 5, us at 4 / 14 rows: 16x96x56x56 7x7
// 3545 / 2524; 16x240x28x28 5x5 1522 / 1019; 1x384x14x14 3x3 10.4 / 9.2.
constexpr int64_t kStripRows = 14;

// Input and gradient of this size come from beyond the L2 cache of a core. Us without / with
// prefetch on the same core: 16x240x28x28 5x5 1906 / 1019; 16x144x56x56 3x3 2773 / 1710;
// 1x96x112x112 3x3 stride 2, 6 MB, 85 / 95.
constexpr int64_t kPrefetchBytes = 8 << 20;

// What one output row reads of one channel vector.
template <class T>
struct Row {
  const T* input[7];  // rows at column 0, null outside the image
  const T* grad;      // output column 0
};

template <int K, int S, class T>
FASTCONV_INLINE Row<T> row_of(const DepthwiseWeightRows<T>& rows, int64_t oh, int64_t c) {
  const DepthwiseConv2dShape& s = rows.shape;
  Row<T> row;
#pragma GCC unroll 8
  for (int i = 0; i < K; ++i) {
    const int64_t ih = oh * S - s.pad_top + i;
    row.input[i] = inside(ih, s.height) ? rows.input + ih * s.width * s.channels + c : nullptr;
  }
  row.grad = rows.grad_output + oh * s.out_width * s.channels + c;
  return row;
}

// Columns outputs from ow on, kernel rows [First, First + Rows), n channels. Edge: rows and columns
// outside the image are skipped.
template <int K, int S, int First, int Columns, bool Edge, bool Full, int Rows, class T>
FASTCONV_INLINE void tile(const DepthwiseConv2dShape& s, const Row<T>& row, int64_t ow, int64_t n,
                          vec_t<T> (&acc)[Rows][K], vec_t<T>& bias) {
  using V = vec_t<T>;
  const int64_t C = s.channels, left = ow * S - s.pad_left;
  V grad[Columns];
#pragma GCC unroll 16
  for (int o = 0; o < Columns; ++o) grad[o] = load_lanes<Full>(row.grad + (ow + o) * C, n);
#pragma GCC unroll 32
  for (int j = 0; j < (Columns - 1) * S + K; ++j) {
    if (Edge && !inside(left + j, s.width)) continue;
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      if (Edge && row.input[First + r] == nullptr) continue;
      const V x = load_lanes<Full>(row.input[First + r] + (left + j) * C, n);
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k) {
        if (j < k || (j - k) % S != 0 || (j - k) / S >= Columns) continue;
        acc[r][k] = fma(grad[(j - k) / S], x, acc[r][k]);
      }
    }
  }
  if constexpr (First == 0) {
#pragma GCC unroll 16
    for (int o = 0; o < Columns; ++o) bias = bias + grad[o];
  }
}

// Asks for what the next channel vector reads first in this place: gradients, and the input rows
// that this output row is the first to read. The walk strides by all channels, so nothing else
// does.
template <int K, int S, class T>
FASTCONV_INLINE void prefetch_next(const DepthwiseConv2dShape& s, const Row<T>& row, int64_t ow) {
#pragma GCC unroll 16
  for (int o = 0; o < kColumns; ++o) prefetch(row.grad + (ow + o) * s.channels + kLanes<T>);
#pragma GCC unroll 2
  for (int i = K - S; i < K; ++i) {
    if (row.input[i] == nullptr) continue;
    const T* x = row.input[i] + (ow * S - s.pad_left + K - S) * s.channels + kLanes<T>;
#pragma GCC unroll 16
    for (int j = 0; j < kColumns * S; ++j) prefetch(x + j * s.channels);
  }
}

// Kernel rows [First, First + Rows) over output rows [first, last), n channels from c on.
template <int K, int S, int First, int Rows, bool Full, class T>
[[gnu::noinline]] void add_pass(const DepthwiseWeightRows<T>& rows, int64_t first, int64_t last,
                                int64_t c, int64_t n, bool prefetches) {
  using V = vec_t<T>;
  const DepthwiseConv2dShape& s = rows.shape;
  accumulate_t<T>* partial = rows.partial + First * K * rows.partial_step + c;
  accumulate_t<T>* bias_sum = rows.partial + K * K * rows.partial_step + c;
  V acc[Rows][K], bias = V::set1(0);
  if (First == 0) bias = load_lanes<Full>(bias_sum, n);
#pragma GCC unroll 32
  for (int t = 0; t < Rows * K; ++t) {
    acc[t / K][t % K] = load_lanes<Full>(partial + t * rows.partial_step, n);
  }
  for (int64_t oh = first; oh < last; ++oh) {
    const Row<T> row = row_of<K, S>(rows, oh, c);
    bool rows_inside = true;
    for (int r = 0; r < Rows; ++r) rows_inside &= row.input[First + r] != nullptr;
    int64_t ow = 0;
    for (; ow + kColumns <= s.out_width; ow += kColumns) {
      if (First == 0 && prefetches) prefetch_next<K, S>(s, row, ow);
      const int64_t left = ow * S - s.pad_left;
      if (rows_inside && left >= 0 && left + (kColumns - 1) * S + K <= s.width) {
        tile<K, S, First, kColumns, false, Full>(s, row, ow, n, acc, bias);
      } else {
        tile<K, S, First, kColumns, true, Full>(s, row, ow, n, acc, bias);
      }
    }
    for (; ow < s.out_width; ++ow) tile<K, S, First, 1, true, Full>(s, row, ow, n, acc, bias);
  }
#pragma GCC unroll 32
  for (int t = 0; t < Rows * K; ++t) {
    store_lanes<Full>(partial + t * rows.partial_step, acc[t / K][t % K], n);
  }
  if (First == 0) store_lanes<Full>(bias_sum, bias, n);
}

template <int K, int S, int Pass, bool Full, class T>
FASTCONV_INLINE void add_strip(const DepthwiseWeightRows<T>& rows, int64_t first, int64_t last,
                               int64_t c, int64_t n, bool prefetches) {
  constexpr int kFirst = K * Pass / kPasses<K>, kLast = K * (Pass + 1) / kPasses<K>;
  add_pass<K, S, kFirst, kLast - kFirst, Full>(rows, first, last, c, n, prefetches);
  if constexpr (Pass + 1 < kPasses<K>) {
    add_strip<K, S, Pass + 1, Full>(rows, first, last, c, n, prefetches);
  }
}

template <int K, int S, class T>
void add_rows(const DepthwiseWeightRows<T>& rows) {
  constexpr int64_t L = kLanes<T>;
  const DepthwiseConv2dShape& s = rows.shape;
  const int64_t pixels = s.height * s.width + s.out_height * s.out_width;
  const bool prefetches = s.batch * pixels * s.channels * int64_t(sizeof(T)) >= kPrefetchBytes;
  for (int64_t first = rows.first; first < rows.last; first += kStripRows) {
    const int64_t last = min_of(first + kStripRows, rows.last);
    int64_t c = rows.channel;
    for (; c + L <= rows.last_channel; c += L) {
      add_strip<K, S, 0, true>(rows, first, last, c, L, prefetches);
    }
    if (c < rows.last_channel) {
      add_strip<K, S, 0, false>(rows, first, last, c, rows.last_channel - c, false);
    }
  }
}

}  // namespace

template <class T>
void depthwise_weight_tiles(const DepthwiseWeightRows<T>& rows) {
  dispatch_window(rows.shape, [&](auto kernel, auto stride) { add_rows<kernel, stride>(rows); });
}

template void depthwise_weight_tiles(const DepthwiseWeightRows<float>&);
template void depthwise_weight_tiles(const DepthwiseWeightRows<bfloat16>&);
template void depthwise_weight_tiles(const DepthwiseWeightRows<float16>&);

}  // namespace fastconv::FASTCONV_ISA
