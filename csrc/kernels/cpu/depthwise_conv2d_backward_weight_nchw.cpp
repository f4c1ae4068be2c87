// Gradient of weight and bias, contiguous: one channel a unit over the whole batch, lanes along the
// row, the taps as vector accumulators, one horizontal sum a tap: threads share nothing.
#include <type_traits>

#include "depthwise_conv2d_paths.h"

namespace fastconv::FASTCONV_ISA {
namespace {

constexpr int kRegisters = kLanes<float> == 16 ? 32 : 16;
constexpr int kMostTaps = kRegisters == 32 ? 28 : 10;

// Kernel rows [kh, kh + Rows) and columns [kw, kw + Columns), of which `columns` exist, of one
// channel; S as in ColumnLoader.
template <int Rows, int Columns, int S, class T>
struct TapSums {
  using V = vec_t<T>;
  static constexpr int64_t L = kLanes<T>;
  const DepthwiseConv2dShape& s;
  int64_t kh, kw, columns;
  V acc[Rows * Columns], bias;

  // Outputs (oh, ow) to (oh + R - 1, ow + n - 1) of one plane: an input vector is loaded once for
  // all R gradient rows it meets. R above 1 wants dilation 1.
  template <int R, bool Edge>
  FASTCONV_INLINE void walk(const T* grad_output, const T* input,
                            const ColumnLoader<S, T> (&loader)[Columns], int64_t oh, int64_t ow,
                            int64_t n) {
    constexpr int kStep = R > 1 ? S : 1;
    V grad[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      grad[r] = load_lanes<!Edge>(grad_output + (oh + r) * s.out_width + ow, n);
      bias = bias + grad[r];
    }
    const int64_t top = oh * s.stride_h - s.pad_top + kh * s.dilation_h;
    const int64_t left = ow * s.stride_w - s.pad_left + kw * s.dilation_w;
#pragma GCC unroll 32
    for (int i = 0; i < Rows + (R - 1) * kStep; ++i) {
      const int64_t ih = top + i * s.dilation_h;
      if (!inside(ih, s.height)) continue;
      const T* row = input + ih * s.width + left;
#pragma GCC unroll 8
      for (int k = 0; k < Columns; ++k) {
        const V x = loader[k].template load_columns<Edge>(row + k * s.dilation_w);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const int tap = i - r * kStep;
          if (tap < 0 || tap >= Rows) continue;
          V& sum = acc[tap * Columns + k];
          sum = Edge ? fma_range(grad[r], x, sum, loader[k].lanes) : fma(grad[r], x, sum);
        }
      }
    }
  }

  template <bool Edge>
  FASTCONV_INLINE void column_of_rows(const T* grad_output, const T* input,
                                      const ColumnLoader<S, T> (&loader)[Columns], int64_t ow,
                                      int64_t n) {
    constexpr int R = S == 0 ? 1 : min_of(7, max_of(1, kRegisters - 3 - Rows * Columns));
    int64_t oh = 0;
    if (s.dilation_h == 1 && s.stride_h == S) {
      for (; oh + R <= s.out_height; oh += R) {
        walk<R, Edge>(grad_output, input, loader, oh, ow, n);
      }
    }
    for (; oh < s.out_height; ++oh) walk<1, true>(grad_output, input, loader, oh, ow, n);
  }

  FASTCONV_INLINE void plane(const T* grad_output, const T* input) {
    for (int64_t ow = 0; ow < s.out_width; ow += L) {
      const int64_t n = min_of(L, s.out_width - ow);
      const int64_t left = ow * s.stride_w - s.pad_left + kw * s.dilation_w;
      const int64_t right = left + (Columns - 1) * s.dilation_w + S * L;
      ColumnLoader<S, T> loader[Columns];
#pragma GCC unroll 8
      for (int k = 0; k < Columns; ++k) {
        LaneRange range = lanes_inside(left + k * s.dilation_w, s.stride_w, s.width, n);
        if (k >= columns) range = {0, 0};
        loader[k].set(range, s.stride_w);
      }
      if (S != 0 && n == L && columns == Columns && left >= 0 && right <= s.width) {
        column_of_rows<false>(grad_output, input, loader, ow, n);
      } else {
        column_of_rows<true>(grad_output, input, loader, ow, n);
      }
    }
  }
};

template <int Rows, int Columns, int S, class T>
FASTCONV_INLINE void sum_taps(const DepthwiseConv2dBackwardWeightParams& p, int64_t channel,
                              int64_t kh, int64_t kw, int64_t columns) {
  using V = vec_t<T>;
  const DepthwiseConv2dShape& s = p.shape;
  TapSums<Rows, Columns, S, T> sums = {s, kh, kw, columns, {}, V::set1(0)};
#pragma GCC unroll 32
  for (int t = 0; t < Rows * Columns; ++t) sums.acc[t] = V::set1(0);
  const int64_t grad_plane = s.out_height * s.out_width, plane = s.height * s.width;
  for (int64_t image = 0; image < s.batch; ++image) {
    const int64_t input_channel = image * s.channels + channel / s.multiplier;
    sums.plane(
        static_cast<const T*>(p.grad_output) + (image * s.out_channels() + channel) * grad_plane,
        static_cast<const T*>(p.input) + input_channel * plane);
  }

  accumulate_t<T>* partial = static_cast<accumulate_t<T>*>(p.partial) + channel;
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int k = 0; k < Columns; ++k) {
      if (k >= columns) continue;
      partial[((kh + r) * s.kernel_w + kw + k) * s.out_channels()] =
          reduce_add(sums.acc[r * Columns + k]);
    }
  }
  if (kh == 0 && kw == 0) partial[s.taps() * s.out_channels()] = reduce_add(sums.bias);
}

// K x K taps, in groups of kernel rows that fit the registers.
template <int K, int First, int S, class T>
FASTCONV_INLINE void square(const DepthwiseConv2dBackwardWeightParams& p, int64_t channel) {
  constexpr int kFit = max_of(1, kMostTaps / K);
  constexpr int kRows = min_of(kFit, K - First);
  sum_taps<kRows, K, S, T>(p, channel, First, 0, K);
  if constexpr (First + kRows < K) square<K, First + kRows, S, T>(p, channel);
}

template <int K, int S, class T>
void run(const DepthwiseConv2dBackwardWeightParams& p, int64_t begin, int64_t end) {
  constexpr int kColumns = 8;
  const DepthwiseConv2dShape& s = p.shape;
  for (int64_t channel = begin; channel < end; ++channel) {
    if constexpr (K != 0) {
      square<K, 0, S, T>(p, channel);
      continue;
    }
    for (int64_t kh = 0; kh < s.kernel_h; ++kh) {
      for (int64_t kw = 0; kw < s.kernel_w; kw += kColumns) {
        const int64_t columns = min_of<int64_t>(kColumns, s.kernel_w - kw);
        sum_taps<1, kColumns, S, T>(p, channel, kh, kw, columns);
      }
    }
  }
}

template <int S, class T>
void choose(const DepthwiseConv2dBackwardWeightParams& p, int64_t begin, int64_t end) {
  const DepthwiseConv2dShape& s = p.shape;
  if constexpr (S != 0 && kLanes<float> > 1 && !std::is_same_v<T, double>) {
    if (depthwise_conv2d_backward_weight_variant(s) ==
        Variant::depthwise_conv2d_backward_weight_nchw_k357) {
      if (s.kernel_h == 3) return run<3, S, T>(p, begin, end);
      if (s.kernel_h == 5) return run<5, S, T>(p, begin, end);
      return run<7, S, T>(p, begin, end);
    }
  }
  run<0, S, T>(p, begin, end);
}

}  // namespace

void depthwise_backward_weight_nchw(const DepthwiseConv2dBackwardWeightParams& p, int64_t begin,
                                    int64_t end) {
  dispatch_dtype(p.shape.dtype, [&](auto element) {
    using T = decltype(element);
    if (p.shape.stride_w == 1) return choose<1, T>(p, begin, end);
    if (p.shape.stride_w == 2) return choose<2, T>(p, begin, end);
    return choose<0, T>(p, begin, end);
  });
}

}  // namespace fastconv::FASTCONV_ISA
