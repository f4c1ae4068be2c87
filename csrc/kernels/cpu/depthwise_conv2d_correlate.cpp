// Any kernel at stride 1 over strips, whose pixels are one dense vector of channels each: forward,
// and the gradient of the weights, which is the same sum with other names. A tile is one row of up
// to 14 sums; an input vector is loaded once for up to 7 taps, so 27 loads do for 98 FMAs. On one
// core of a Zen 5, 1x64x56x56 15x15 and 4x64x28x28 15x15 run at 0.85 of the FMAs the core could do.
#include "depthwise_conv2d_paths.h"

namespace fastconv::FASTCONV_ISA {
namespace {

// Sums, weights and an input vector share the registers.
constexpr int kMostColumns = kLanes<float> == 16 ? 14 : 8;
constexpr int kGroup = kLanes<float> == 16 ? 7 : 4;

// sums[o] += weight(r, t) * input(r, o + t) over all rows r and taps t, but for input columns
// outside [first, last). Steps in elements.
template <class A>
struct Correlation {
  const A *input, *weight;
  int64_t rows, taps, input_step, weight_step;
  int64_t first, last;
};

// Taps [t, t + Group) of all rows.
template <int Columns, int Group, bool Edge, class A>
FASTCONV_INLINE void add_taps(const Correlation<A>& c, int64_t t, vec_t<A> (&sums)[Columns]) {
  using V = vec_t<A>;
  constexpr int64_t L = kLanes<A>;
  const A *input = c.input + t * L, *weight = c.weight + t * L;
  for (int64_t r = 0; r < c.rows; ++r, input += c.input_step, weight += c.weight_step) {
    V w[Group];
#pragma GCC unroll 8
    for (int k = 0; k < Group; ++k) w[k] = load(weight + k * L);
#pragma GCC unroll 32
    for (int j = 0; j < Columns + Group - 1; ++j) {
      if (Edge && (t + j < c.first || t + j >= c.last)) continue;
      const V x = load(input + j * L);
#pragma GCC unroll 8
      for (int k = 0; k < Group; ++k) {
        const int o = j - k;
        if (o >= 0 && o < Columns) sums[o] = fma(x, w[k], sums[o]);
      }
    }
  }
}

template <int Columns, int Group, class A>
FASTCONV_INLINE void add_group(const Correlation<A>& c, int64_t t, vec_t<A> (&sums)[Columns]) {
  constexpr int kInputs = Columns + Group - 1;
  if (t >= c.last || t + kInputs <= c.first) return;
  if (t >= c.first && t + kInputs <= c.last) return add_taps<Columns, Group, false>(c, t, sums);
  add_taps<Columns, Group, true>(c, t, sums);
}

template <int Columns, class A>
FASTCONV_INLINE void correlate(const Correlation<A>& c, vec_t<A> (&sums)[Columns]) {
  int64_t t = 0;
  for (; t + kGroup <= c.taps; t += kGroup) add_group<Columns, kGroup>(c, t, sums);
  for (; t < c.taps; ++t) add_group<Columns, 1>(c, t, sums);
}

// Calls f(Columns) with tiles as few and as even as they come.
template <class F>
FASTCONV_INLINE void dispatch_columns(int64_t width, const F& f) {
  const int64_t columns = div_up(width, div_up(width, int64_t{kMostColumns}));
  if constexpr (kLanes<float> == 16) {
    switch (columns) {
      case 14:
        return f(Constant<14>{});
      case 13:
        return f(Constant<13>{});
      case 12:
        return f(Constant<12>{});
      case 11:
        return f(Constant<11>{});
      case 10:
        return f(Constant<10>{});
      case 9:
        return f(Constant<9>{});
      case 8:
        return f(Constant<8>{});
    }
  }
  if (columns == 8) return f(Constant<8>{});
  f(Constant<7>{});
}

template <int Columns, class A>
void forward(const DepthwiseConv2dParams& p) {
  using V = vec_t<A>;
  constexpr int64_t L = kLanes<A>;
  const DepthwiseConv2dShape& s = p.shape;
  const V bias = p.bias ? load(static_cast<const A*>(p.bias)) : V::set1(0);
  for (int64_t oh = 0; oh < s.out_height; ++oh) {
    const int64_t top = oh - s.pad_top, first = max_of<int64_t>(0, -top);
    const int64_t rows = min_of(s.kernel_h, s.height - top) - first;
    for (int64_t ow = 0; ow < s.out_width; ow += Columns) {
      const int64_t left = ow - s.pad_left;
      const Correlation<A> c = {
          static_cast<const A*>(p.input) + ((top + first) * s.width + left) * L,
          static_cast<const A*>(p.weight) + first * s.kernel_w * L,
          rows,
          s.kernel_w,
          s.width * L,
          s.kernel_w * L,
          -left,
          s.width - left};
      V sums[Columns];
#pragma GCC unroll 16
      for (int o = 0; o < Columns; ++o) sums[o] = bias;
      correlate(c, sums);
      activate(p.activation, sums);
      A* output = static_cast<A*>(p.output) + (oh * s.out_width + ow) * L;
#pragma GCC unroll 16
      for (int o = 0; o < Columns; ++o) {
        if (ow + o < s.out_width) store(output + o * L, sums[o]);
      }
    }
  }
}

// Output rows [first, last) are the taps, kernel columns those of a tile.
template <int Columns, class A>
void backward_weight(const DepthwiseWeightRows<A>& g) {
  using V = vec_t<A>;
  constexpr int64_t L = kLanes<A>;
  const DepthwiseConv2dShape& s = g.shape;
  for (int64_t kh = 0; kh < s.kernel_h; ++kh) {
    const int64_t top = kh - s.pad_top, first = max_of(g.first, -top);
    const int64_t rows = min_of(g.last, s.height - top) - first;
    for (int64_t kw = 0; kw < s.kernel_w; kw += Columns) {
      const int64_t left = kw - s.pad_left;
      const Correlation<A> c = {g.input + ((top + first) * s.width + left) * L,
                                g.grad_output + first * s.out_width * L,
                                rows,
                                s.out_width,
                                s.width * L,
                                s.out_width * L,
                                -left,
                                s.width - left};
      A* partial = g.partial + (kh * s.kernel_w + kw) * L;
      V sums[Columns];
#pragma GCC unroll 16
      for (int o = 0; o < Columns; ++o) {
        sums[o] = kw + o < s.kernel_w ? load(partial + o * L) : V::set1(0);
      }
      correlate(c, sums);
#pragma GCC unroll 16
      for (int o = 0; o < Columns; ++o) {
        if (kw + o < s.kernel_w) store(partial + o * L, sums[o]);
      }
    }
  }
  A* bias_sum = g.partial + s.taps() * L;
  V bias = load(bias_sum);
  for (int64_t i = g.first * s.out_width; i < g.last * s.out_width; ++i) {
    bias = bias + load(g.grad_output + i * L);
  }
  store(bias_sum, bias);
}

}  // namespace

template <class A>
void depthwise_correlate(const DepthwiseConv2dParams& p) {
  dispatch_columns(p.shape.out_width, [&](auto columns) { forward<columns, A>(p); });
}

template <class A>
void depthwise_correlate_weight(const DepthwiseWeightRows<A>& rows) {
  dispatch_columns(rows.shape.kernel_w, [&](auto columns) { backward_weight<columns>(rows); });
}

template void depthwise_correlate<float>(const DepthwiseConv2dParams&);
template void depthwise_correlate<double>(const DepthwiseConv2dParams&);
template void depthwise_correlate_weight(const DepthwiseWeightRows<float>&);
template void depthwise_correlate_weight(const DepthwiseWeightRows<double>&);

}  // namespace fastconv::FASTCONV_ISA
