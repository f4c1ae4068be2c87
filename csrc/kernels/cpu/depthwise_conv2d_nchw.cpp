// Forward, contiguous: a register tile of 7 output rows x one vector along the row. A shifted input
// vector is loaded once and feeds up to k rows; the weights are broadcast.
#include "depthwise_conv2d_paths.h"

namespace fastconv::FASTCONV_ISA {
namespace {

constexpr int kRows = 7;  // maps are 7, 14, 28, 56 or 112 high

struct Plane {
  const void* input;  // (height, width)
  void* output;       // (out_height, out_width)
};

// Edge: lanes outside the image are skipped, lanes outside the output are not stored.
template <int K, int S, bool Edge, class T>
FASTCONV_INLINE void tile(const DepthwiseConv2dParams& p, const Plane& plane,
                          const accumulate_t<T> (&weight)[K * K], accumulate_t<T> bias, int64_t oh,
                          int64_t rows, int64_t ow) {
  using V = vec_t<T>;
  constexpr int64_t L = kLanes<T>;
  const DepthwiseConv2dShape& s = p.shape;
  const int64_t top = oh * S - s.pad_top, left = ow * S - s.pad_left;
  V acc[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) acc[r] = V::set1(bias);

  // The weights of 3x3 stay in registers; larger kernels leave none, and broadcast each weight from
  // memory where it is used.
  constexpr bool kInRegisters = K == 3 && kLanes<float> == 16;
  V w[K * K];
#pragma GCC unroll 64
  for (int t = 0; t < K * K; ++t) {
    w[t] = V::set1(weight[t]);
    if constexpr (kInRegisters) asm("" : "+v"(w[t].v));
  }

  ColumnLoader<S, T> columns[K];
#pragma GCC unroll 16
  for (int kw = 0; kw < K; ++kw) columns[kw].set(lanes_inside(left + kw, S, s.width, L), S);

#pragma GCC unroll 32
  for (int i = 0; i < K + (kRows - 1) * S; ++i) {
    if (!inside(top + i, s.height)) continue;
    const T* row = static_cast<const T*>(plane.input) + (top + i) * s.width + left;
#pragma GCC unroll 16
    for (int kw = 0; kw < K; ++kw) {
      const V x = columns[kw].template load_columns<Edge>(row + kw);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const int kh = i - r * S;
        if (kh < 0 || kh >= K) continue;
        const int tap = kh * K + kw;
        acc[r] = Edge ? fma_range(x, w[tap], acc[r], columns[kw].lanes) : fma(x, w[tap], acc[r]);
      }
    }
  }

  activate(p.activation, acc);
  T* output = static_cast<T*>(plane.output) + oh * s.out_width + ow;
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    if (r >= rows) continue;
    if constexpr (Edge) {
      store_partial(output + r * s.out_width, acc[r], min_of(L, s.out_width - ow));
    } else {
      store(output + r * s.out_width, acc[r]);
    }
  }
}

template <int K, int S, class T>
void run(const DepthwiseConv2dParams& p, int64_t begin, int64_t end) {
  using A = accumulate_t<T>;
  constexpr int64_t L = kLanes<T>;
  const DepthwiseConv2dShape& s = p.shape;
  for (int64_t unit = begin; unit < end; ++unit) {
    const PlaneUnit u = plane_unit(unit, s.out_height);
    const int64_t channel = u.plane % s.out_channels();
    const Plane plane = {
        static_cast<const T*>(p.input) + u.plane / s.multiplier * s.height * s.width,
        static_cast<T*>(p.output) + u.plane * s.out_height * s.out_width};
    A weight[K * K];
    for (int t = 0; t < K * K; ++t) {
      weight[t] = widen(static_cast<const T*>(p.weight)[channel * K * K + t]);
    }
    const A bias = p.bias ? widen(static_cast<const T*>(p.bias)[channel]) : A(0);
    for (int64_t r = 0; r < u.rows; r += kRows) {
      for (int64_t ow = 0; ow < s.out_width; ow += L) {
        const int64_t left = ow * S - s.pad_left;
        const bool interior = left >= 0 && left + K - 1 + S * L <= s.width && ow + L <= s.out_width;
        if (interior) {
          tile<K, S, false, T>(p, plane, weight, bias, u.row + r, u.rows - r, ow);
        } else {
          tile<K, S, true, T>(p, plane, weight, bias, u.row + r, u.rows - r, ow);
        }
      }
    }
  }
}

}  // namespace

void depthwise_nchw_tiles(const DepthwiseConv2dParams& p, int64_t begin, int64_t end) {
  dispatch_tile(p.shape, [&](auto kernel, auto stride, auto element) {
    run<kernel, stride, decltype(element)>(p, begin, end);
  });
}

}  // namespace fastconv::FASTCONV_ISA
