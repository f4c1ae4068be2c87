// Forward, contiguous: a register tile of rows x one vector along the row. Kernel columns are the
// outer loop, whose weights stay in registers: a shifted input vector is loaded once and feeds up
// to k rows.
#include "depthwise_conv2d_paths.h"
#include "simd/vectors.h"

namespace fastconv::FASTCONV_ISA {
namespace {

// Maps are 7, 14, 28, 56 or 112 high. Sums and the weights of a column fit 32 vector registers, not
// 16. On one core of a Zen 5, us with 7 / 14 rows: 1x384x14x14 3x3 19.1 / 16.1, 1x192x28x28 34.5 /
// 29.8; 1x672x14x14 5x5 40 / 30.
constexpr int kRows = kLanes<float> == 16 ? 14 : 7;

// Kernel columns whose weights are in registers at once: all 9 of them leave room for 14 sums.
template <int K>
constexpr int kGroup = K == 3 && kLanes<float> == 16 ? 3 : 1;

// The rows of a unit that go past the caches are whole vectors apart from their ends, so they meet
// here first. On one core of a Zen 5, 16x144x56x56 3x3: 1750 us through the caches, 1470 past them.
constexpr int64_t kBuffer = 4096;

// One channel of one image, rows from oh on.
template <int K, class T>
struct Rows {
  const T* input;                 // of the first input row of the window, column 0
  int64_t first_row, last_row;    // input rows inside the image, counted from there
  const accumulate_t<T>* weight;  // K x K
  accumulate_t<T> bias;
  T* output;
  int64_t rows;
};

// Keeps a value in a register: g++ would rather read it from memory again at every use.
template <class V>
FASTCONV_INLINE V in_register(V v) {
  asm("" : "+v"(v.v));
  return v;
}

// Outputs of one vector of columns, and the lanes that each kernel column reads inside the image.
template <int K, int S, class T>
struct Columns {
  int64_t ow = -1;
  ColumnLoader<S, T> loader[K];

  FASTCONV_INLINE void set(const DepthwiseConv2dShape& s, int64_t column) {
    if (ow == column) return;
    ow = column;
    for (int kw = 0; kw < K; ++kw) {
      loader[kw].set(lanes_inside(ow * S - s.pad_left + kw, S, s.width, kLanes<T>), S);
    }
  }
};

// Which lanes of an input vector are inside the row: all; some, and the others are memory of the
// same tensor; some, and the others may not be read. A mask on a load costs more than one on an
// FMA: on one core of a Zen 5, us with every load masked / those at the tensor's ends: 1x384x14x14
// 3x3 14.1 / 12.4, 1x240x28x28 stride 2 17.8 / 16.1.
enum class Lanes { kAll, kSome, kMasked };

// Lanes outside the image are skipped. Lanes outside the output are stored where a row of the unit
// follows, as a mask costs more: 1x384x14x14 3x3 19.5 us with masks, 18.5 so;
// 1x192x28x28 39.5, 38.2 (one core of an Intel Xeon with AMX).
template <int K, int S, Lanes kLanesRead, class T>
FASTCONV_INLINE void tile(const DepthwiseConv2dShape& s, const Rows<K, T>& at,
                          const ColumnLoader<S, T> (&loaders)[K], int64_t ow, Activation kind) {
  using V = vec_t<T>;
  constexpr int64_t L = kLanes<T>;
  constexpr bool kEdge = kLanesRead != Lanes::kAll;
  int first = int(at.first_row), last = int(at.last_row);
  V acc[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) acc[r] = V::set1(at.bias);

#pragma GCC unroll 1
  for (int from = 0; from < K; from += kGroup<K>) {
    V w[kGroup<K>][K];
    ColumnLoader<S, T> columns[kGroup<K>];
#pragma GCC unroll 8
    for (int k = 0; k < kGroup<K>; ++k) {
      columns[k] = loaders[from + k];
#pragma GCC unroll 8
      for (int kh = 0; kh < K; ++kh) {
        w[k][kh] = in_register(V::set1(at.weight[kh * K + from + k]));
      }
    }
    asm("" : "+r"(first), "+r"(last));  // or each question of the rows below is kept in memory
    const T* row = at.input + ow * S - s.pad_left + from;
#pragma GCC unroll 64
    for (int i = 0; i < K + (kRows - 1) * S; ++i, row += s.width) {
      if (i < first || i >= last) continue;
#pragma GCC unroll 8
      for (int k = 0; k < kGroup<K>; ++k) {
        const V x =
            in_register(columns[k].template load_columns<kLanesRead == Lanes::kMasked>(row + k));
#pragma GCC unroll 8
        for (int kh = 0; kh < K; ++kh) {
          const int r = (i - kh) / S;
          if (i < kh || (i - kh) % S != 0 || r >= kRows) continue;
          acc[r] =
              kEdge ? fma_range(x, w[k][kh], acc[r], columns[k].lanes) : fma(x, w[k][kh], acc[r]);
        }
      }
    }
  }

  activate(kind, acc);
  T* output = at.output + ow;
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    if (r >= at.rows) break;
    if (kEdge && (at.rows - r) * s.out_width - ow < L) {
      store_partial(output + r * s.out_width, acc[r], min_of(L, s.out_width - ow));
    } else {
      store(output + r * s.out_width, acc[r]);  // the row below is stored later
    }
  }
}

template <int K, int S, class T>
void run(const DepthwiseConv2dParams& p, int64_t begin, int64_t end) {
  using A = accumulate_t<T>;
  constexpr int64_t L = kLanes<T>;
  constexpr int64_t kInputs = K + (kRows - 1) * S;
  const DepthwiseConv2dShape& s = p.shape;
  const int64_t outputs = s.batch * s.out_channels() * s.out_height * s.out_width;
  const bool streams = outputs * int64_t(sizeof(T)) >= kStreamedBytes &&
                       kDepthwisePlaneRows * s.out_width <= kBuffer;
  const T* const tensor = static_cast<const T*>(p.input);
  const T* const tensor_end = tensor + s.batch * s.channels * s.height * s.width;
  alignas(64) T buffer[kBuffer];
  Columns<K, S, T> edges[2];  // the first columns of a row, and the last
  for (int64_t unit = begin; unit < end; ++unit) {
    const PlaneUnit u = plane_unit(unit, s.out_height);
    const int64_t channel = u.plane % s.out_channels();
    A weight[K * K];
    for (int t = 0; t < K * K; ++t) {
      weight[t] = widen(static_cast<const T*>(p.weight)[channel * K * K + t]);
    }
    const A bias = p.bias ? widen(static_cast<const T*>(p.bias)[channel]) : A(0);
    const T* input = tensor + u.plane / s.multiplier * s.height * s.width;
    T* output = static_cast<T*>(p.output) + (u.plane * s.out_height + u.row) * s.out_width;
    for (int64_t r = 0; r < u.rows; r += kRows) {
      const int64_t top = (u.row + r) * S - s.pad_top;
      const Rows<K, T> at = {input + top * s.width,
                             clamp(-top, 0, kInputs),
                             clamp(s.height - top, 0, kInputs),
                             weight,
                             bias,
                             (streams ? buffer : output) + r * s.out_width,
                             u.rows - r};
      // The last columns first: what their whole vectors put into the row below is stored again.
      for (int64_t ow = (s.out_width - 1) / L * L; ow >= 0; ow -= L) {
        const int64_t left = ow * S - s.pad_left;
        if (left >= 0 && left + K - 1 + S * L <= s.width && ow + L <= s.out_width) {
          tile<K, S, Lanes::kAll>(s, at, edges[0].loader, ow, p.activation);
        } else {
          Columns<K, S, T>& edge = edges[ow != 0];
          edge.set(s, ow);
          if (at.input + at.first_row * s.width + left >= tensor &&
              at.input + (at.last_row - 1) * s.width + left + K - 1 + S * L <= tensor_end) {
            tile<K, S, Lanes::kSome>(s, at, edge.loader, ow, p.activation);
          } else {
            tile<K, S, Lanes::kMasked>(s, at, edge.loader, ow, p.activation);
          }
        }
      }
    }
    if (streams) {
      for_each_vector_streamed(output, u.rows * s.out_width, [&](int64_t i, auto lanes) {
        store(output + i, load(buffer + i, lanes), lanes);
      });
    }
  }
  if (streams) stream_fence();
}

}  // namespace

void depthwise_nchw_tiles(const DepthwiseConv2dParams& p, int64_t begin, int64_t end) {
  dispatch_tile(p.shape, [&](auto kernel, auto stride, auto element) {
    run<kernel, stride, decltype(element)>(p, begin, end);
  });
}

}  // namespace fastconv::FASTCONV_ISA
