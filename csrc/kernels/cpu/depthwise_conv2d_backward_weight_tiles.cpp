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

// Rows walked with one channel vector. Us at 4 / 7 / 14 / 28 rows on two cores of an Intel Xeon
// with AMX: 16x672x14x14 5x5 741 / 710 / 777 / 725, 16x240x28x28 5x5 931 / 928 / 966 / 958,
// 16x96x56x56 7x7 2298 / 2220 / 2276 / 2297, 16x384x14x14 7x7 645 / 643 / 683 / 690, 16x96x112x112
// 3x3 stride 2 4226 / 3625 / 4472 / 5345. On one core of a Zen 5, us at 4 / 14 rows: 16x96x56x56
// 7x7 3545 / 2524, 16x240x28x28 5x5 1522 / 1019.
constexpr int64_t kStripRows = 7;

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

// 3x3 in float32 is short of nothing: 1x384x14x14 7.2 us with the compiler's own addresses and a
// question for each row, 8.1 with Multiples. The others, before / after, on one core of a Zen 5:
// 1x384x14x14 3x3 in bfloat16 10.6 / 7.4, 7x7 31.0 / 28.9, 16x672x14x14 5x5 528 / 474.
template <int K, class T>
constexpr bool kPlain = K == 3 && sizeof(T) == sizeof(float);

// The first kCount multiples of a step, added up by the processor as it reads: a register for every
// odd one, times 1, 2, 4 or 8. The rows of a tile share them.
template <class T>
struct Multiples {
  static constexpr int kCount = 9;
  int64_t odd[kCount / 2];  // bytes

  FASTCONV_INLINE explicit Multiples(int64_t step) {
#pragma GCC unroll 4
    for (int i = 0; i < kCount / 2; ++i) {
      odd[i] = (2 * i + 1) * step * int64_t(sizeof(T));
      asm("" : "+r"(odd[i]));
    }
  }
  FASTCONV_INLINE const T* after(const T* p, int i) const {
    if (i == 0) return p;
    const int power = i & -i;
    return reinterpret_cast<const T*>(reinterpret_cast<const char*>(p) +
                                      odd[i / power / 2] * power);
  }
};

// Kernel rows [From, From + Count) of a pass.
template <int K, int S, int From, int Count, int Outputs, Columns kColumnsThere, bool Full,
          int Rows, class T>
FASTCONV_INLINE void multiply(const DepthwiseConv2dShape& s, const T* const* rows, int64_t left,
                              int64_t n, const vec_t<T> (&grad)[Outputs],
                              vec_t<T> (&acc)[Rows][K]) {
  constexpr int kInputs = (Outputs - 1) * S + K;
  const Multiples<T> multiples(s.channels);
  const T* input[Count];
#pragma GCC unroll 8
  for (int r = 0; r < Count; ++r) {
    if (!kPlain<K, T>) input[r] = forget_origin(rows[From + r] + left * s.channels);
  }
#pragma GCC unroll 32
  for (int j = 0; j < kInputs; ++j) {
    const int from_group = j % Multiples<T>::kCount;
    if (!kPlain<K, T> && j != 0 && from_group == 0) {
#pragma GCC unroll 8
      for (int r = 0; r < Count; ++r) {
        input[r] = forget_origin(input[r] + Multiples<T>::kCount * s.channels);
      }
    }
    const bool padded = kColumnsThere == Columns::kPadded && (j < K / 2 || j >= kInputs - K / 2);
    if ((kColumnsThere == Columns::kAny || padded) && !inside(left + j, s.width)) continue;
#pragma GCC unroll 8
    for (int r = 0; r < Count; ++r) {
      if (kPlain<K, T> && rows[From + r] == nullptr) continue;
      const T* pixel = kPlain<K, T> ? rows[From + r] + (left + j) * s.channels
                                    : multiples.after(input[r], from_group);
      const vec_t<T> x = load_lanes<Full>(pixel, n);
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k) {
        if (j < k || (j - k) % S != 0 || (j - k) / S >= Outputs) continue;
        acc[From + r][k] = fma(grad[(j - k) / S], x, acc[From + r][k]);
      }
    }
  }
}

// Those of the kernel rows from From on whose input is inside the image; two at once for 3x3, as
// one has too few sums to keep the multipliers busy.
template <int K, int S, int From, int Outputs, Columns kColumnsThere, bool Full, int Rows, class T>
FASTCONV_INLINE void multiply_present(const DepthwiseConv2dShape& s, const T* const* rows,
                                      int64_t left, int64_t n, const vec_t<T> (&grad)[Outputs],
                                      vec_t<T> (&acc)[Rows][K]) {
  constexpr auto kThere = kColumnsThere;
  if constexpr (K == 3 && From + 1 < Rows) {
    if (rows[From] && rows[From + 1]) {
      multiply<K, S, From, 2, Outputs, kThere, Full>(s, rows, left, n, grad, acc);
      return;
    }
  }
  if (rows[From]) multiply<K, S, From, 1, Outputs, kThere, Full>(s, rows, left, n, grad, acc);
  if constexpr (From + 1 < Rows) {
    multiply_present<K, S, From + 1, Outputs, kThere, Full>(s, rows, left, n, grad, acc);
  }
}

// Outputs from ow on, kernel rows [First, First + Rows), n channels.
template <int K, int S, int First, int Outputs, Columns kColumnsThere, bool Full, int Rows, class T>
FASTCONV_INLINE void tile(const DepthwiseConv2dShape& s, const Row<T>& row, int64_t ow, int64_t n,
                          vec_t<T> (&acc)[Rows][K], vec_t<T>& bias) {
  using V = vec_t<T>;
  const int64_t C = s.channels, left = ow * S - s.pad_left;
  const Pixels<Outputs, const T> grads(row.grad + ow * C, C);
  V grad[Outputs];
#pragma GCC unroll 16
  for (int o = 0; o < Outputs; ++o) grad[o] = load_lanes<Full>(grads[o], n);
  const T* const* rows = row.input + First;
  bool all = true;
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) all &= rows[r] != nullptr;
  if (kPlain<K, T> || all) {
    multiply<K, S, 0, Rows, Outputs, kColumnsThere, Full>(s, rows, left, n, grad, acc);
  } else {
    multiply_present<K, S, 0, Outputs, kColumnsThere, Full>(s, rows, left, n, grad, acc);
  }
  if constexpr (First == 0) {
#pragma GCC unroll 16
    for (int o = 0; o < Outputs; ++o) bias = bias + grad[o];
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
    int64_t ow = 0;
    for (; ow + kColumns <= s.out_width; ow += kColumns) {
      if (First == 0 && prefetches) prefetch_next<K, S>(s, row, ow);
      const int64_t left = ow * S - s.pad_left, right = left + (kColumns - 1) * S + K - s.width;
      if (left >= 0 && right <= 0) {
        tile<K, S, First, kColumns, Columns::kInside, Full>(s, row, ow, n, acc, bias);
      } else if (left >= -K / 2 && right <= K / 2) {
        tile<K, S, First, kColumns, Columns::kPadded, Full>(s, row, ow, n, acc, bias);
      } else {
        tile<K, S, First, kColumns, Columns::kAny, Full>(s, row, ow, n, acc, bias);
      }
    }
    for (; ow < s.out_width; ++ow) {
      tile<K, S, First, 1, Columns::kAny, Full>(s, row, ow, n, acc, bias);
    }
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
