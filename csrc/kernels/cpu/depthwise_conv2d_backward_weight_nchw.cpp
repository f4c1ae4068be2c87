// Gradient of weight and bias, contiguous: one channel a unit over the whole batch, lanes along the
// row, the taps as vector accumulators, one horizontal sum a tap: threads share nothing.
#include "depthwise_conv2d_paths.h"

namespace fastconv::FASTCONV_ISA {
namespace {

constexpr int kMostTaps = kLanes<float> == 16 ? 28 : 10;  // of 32 or 16 vector registers

// Kernel rows [kh, kh + Rows), columns [kw, kw + Columns) of which `columns` exist; S as in
// load_columns.
template <int Rows, int Columns, int S, class T>
FASTCONV_INLINE void accumulate_taps(const DepthwiseConv2dBackwardWeightParams& p, int64_t channel,
                                     int64_t kh, int64_t kw, int64_t columns) {
  using V = vec_t<T>;
  using A = accumulate_t<T>;
  constexpr int64_t L = kLanes<T>;
  const DepthwiseConv2dShape& s = p.shape;
  V acc[Rows * Columns];
#pragma GCC unroll 32
  for (int t = 0; t < Rows * Columns; ++t) acc[t] = V::set1(0);
  V bias = V::set1(0);

  for (int64_t image = 0; image < s.batch; ++image) {
    const T* grad_output = static_cast<const T*>(p.grad_output) +
                           (image * s.out_channels() + channel) * s.out_height * s.out_width;
    const T* input = static_cast<const T*>(p.input) +
                     (image * s.channels + channel / s.multiplier) * s.height * s.width;
    for (int64_t ow = 0; ow < s.out_width; ow += L) {
      const int64_t n = min_of(L, s.out_width - ow);
      const int64_t left = ow * s.stride_w - s.pad_left + kw * s.dilation_w;
      const int64_t read = left + (Columns - 1) * s.dilation_w + S * L;
      const bool interior = S != 0 && n == L && columns == Columns && left >= 0 && read <= s.width;
      LaneRange range[Columns];
#pragma GCC unroll 8
      for (int k = 0; k < Columns; ++k) {
        range[k] = lanes_inside(left + k * s.dilation_w, s.stride_w, s.width, n);
        if (k >= columns) range[k] = {0, 0};
      }
      for (int64_t oh = 0; oh < s.out_height; ++oh) {
        const V grad = load_partial(grad_output + oh * s.out_width + ow, n);
        bias = bias + grad;
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
          const int64_t ih = oh * s.stride_h - s.pad_top + (kh + r) * s.dilation_h;
          if (!inside(ih, s.height)) continue;
          const T* x = input + ih * s.width + left;
#pragma GCC unroll 8
          for (int k = 0; k < Columns; ++k) {
            V& sum = acc[r * Columns + k];
            const T* at = x + k * s.dilation_w;
            if (interior) {
              if constexpr (S == 1) sum = fma(grad, load(at), sum);
              if constexpr (S == 2) sum = fma(grad, even_lanes(load(at), load(at + L)), sum);
            } else {
              sum = fma_range(grad, load_columns<S>(at, s.stride_w, range[k]), sum, range[k]);
            }
          }
        }
      }
    }
  }

  A* partial = static_cast<A*>(p.partial) + channel;
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int k = 0; k < Columns; ++k) {
      if (k >= columns) continue;
      partial[((kh + r) * s.kernel_w + kw + k) * s.out_channels()] =
          reduce_add(acc[r * Columns + k]);
    }
  }
  if (kh == 0 && kw == 0) partial[s.taps() * s.out_channels()] = reduce_add(bias);
}

// K x K taps, in groups of kernel rows that fit the registers.
template <int K, int First, int S, class T>
FASTCONV_INLINE void square(const DepthwiseConv2dBackwardWeightParams& p, int64_t channel) {
  constexpr int kFit = max_of(1, kMostTaps / K);
  constexpr int kRows = min_of(kFit, K - First);
  accumulate_taps<kRows, K, S, T>(p, channel, First, 0, K);
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
        accumulate_taps<1, kColumns, S, T>(p, channel, kh, kw, columns);
      }
    }
  }
}

template <int S, class T>
void choose(const DepthwiseConv2dBackwardWeightParams& p, int64_t begin, int64_t end) {
  const DepthwiseConv2dShape& s = p.shape;
  const bool any = depthwise_conv2d_backward_weight_variant(s) ==
                   Variant::depthwise_conv2d_backward_weight_nchw_any;
  if (S == 0 || any) return run<0, S, T>(p, begin, end);
  if (s.kernel_h == 3) return run<3, S, T>(p, begin, end);
  if (s.kernel_h == 5) return run<5, S, T>(p, begin, end);
  return run<7, S, T>(p, begin, end);
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
