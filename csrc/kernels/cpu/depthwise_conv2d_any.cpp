// Forward for any kernel size, stride, dilation and multiplier: taps in a loop, each weight loaded
// once for 7 columns (channels_last) or 4 rows (contiguous).
#include "depthwise_conv2d_paths.h"

namespace fastconv::FASTCONV_ISA {
namespace {

constexpr int kColumns = 7;
constexpr int kRows = 4;

template <bool Repeat, bool Edge, class T>
FASTCONV_INLINE void columns_tile(const DepthwiseConv2dParams& p, int64_t image, int64_t oh,
                                  int64_t ow, int64_t c, int64_t n) {
  using V = vec_t<T>;
  const DepthwiseConv2dShape& s = p.shape;
  const int64_t out_channels = s.out_channels();
  const int64_t top = oh * s.stride_h - s.pad_top, left = ow * s.stride_w - s.pad_left;
  const ChannelLanes<Repeat, T> lanes(c, n, s.multiplier);
  const T* input = static_cast<const T*>(p.input) + image * s.height * s.width * s.channels;

  V acc[kColumns];
  const V bias = p.bias ? load_partial(static_cast<const T*>(p.bias) + c, n) : V::set1(0);
#pragma GCC unroll 16
  for (int o = 0; o < kColumns; ++o) acc[o] = bias;

  for (int64_t kh = 0; kh < s.kernel_h; ++kh) {
    const int64_t ih = top + kh * s.dilation_h;
    if (!inside(ih, s.height)) continue;
    for (int64_t kw = 0; kw < s.kernel_w; ++kw) {
      const int64_t iw = left + kw * s.dilation_w;
      const T* weight = static_cast<const T*>(p.weight) + (kh * s.kernel_w + kw) * out_channels + c;
      const V w = load_partial(weight, n);
      const T* x = input + (ih * s.width + iw) * s.channels;
#pragma GCC unroll 16
      for (int o = 0; o < kColumns; ++o) {
        if (Edge && !inside(iw + o * s.stride_w, s.width)) continue;
        acc[o] = fma(lanes.load_pixel(x + o * s.stride_w * s.channels), w, acc[o]);
      }
    }
  }

  activate(p.activation, acc);
  T* output = static_cast<T*>(p.output) +
              ((image * s.out_height + oh) * s.out_width + ow) * out_channels + c;
#pragma GCC unroll 16
  for (int o = 0; o < kColumns; ++o) {
    if (ow + o < s.out_width) store_partial(output + o * out_channels, acc[o], n);
  }
}

template <bool Repeat, class T>
void run_nhwc(const DepthwiseConv2dParams& p, int64_t begin, int64_t end) {
  constexpr int64_t L = kLanes<T>;
  const DepthwiseConv2dShape& s = p.shape;
  const int64_t reach = (kColumns - 1) * s.stride_w + (s.kernel_w - 1) * s.dilation_w;
  for (int64_t unit = begin; unit < end;) {
    const RowsUnit u = rows_unit(unit, end, s.out_channels(), s.out_height);
    unit += u.units;
    const int64_t last = u.channel + u.channels;
    for (int64_t oh = u.row; oh < u.row + u.rows; ++oh) {
      for (int64_t ow = 0; ow < s.out_width; ow += kColumns) {
        const int64_t left = ow * s.stride_w - s.pad_left;
        const bool interior = left >= 0 && left + reach < s.width;
        for (int64_t c = u.channel; c < last; c += L) {
          const int64_t n = min_of(L, last - c);
          if (interior) {
            columns_tile<Repeat, false, T>(p, u.image, oh, ow, c, n);
          } else {
            columns_tile<Repeat, true, T>(p, u.image, oh, ow, c, n);
          }
        }
      }
    }
  }
}

template <int S, class T>
FASTCONV_INLINE void rows_tile(const DepthwiseConv2dParams& p, int64_t plane, int64_t oh,
                               int64_t rows, int64_t ow) {
  using V = vec_t<T>;
  using A = accumulate_t<T>;
  constexpr int64_t L = kLanes<T>;
  const DepthwiseConv2dShape& s = p.shape;
  const int64_t channel = plane % s.out_channels();
  const int64_t top = oh * s.stride_h - s.pad_top, left = ow * s.stride_w - s.pad_left;
  const T* input = static_cast<const T*>(p.input) + plane / s.multiplier * s.height * s.width;
  const T* weight = static_cast<const T*>(p.weight) + channel * s.taps();

  V acc[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    acc[r] = V::set1(p.bias ? widen(static_cast<const T*>(p.bias)[channel]) : A(0));
  }
  for (int64_t kw = 0; kw < s.kernel_w; ++kw) {
    const int64_t iw = left + kw * s.dilation_w;
    const LaneRange range = lanes_inside(iw, s.stride_w, s.width, L);
    if (range.first >= range.last) continue;
    ColumnLoader<S, T> columns;
    columns.set(range, s.stride_w);
    for (int64_t kh = 0; kh < s.kernel_h; ++kh) {
      const V w = V::set1(widen(weight[kh * s.kernel_w + kw]));
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const int64_t ih = top + r * s.stride_h + kh * s.dilation_h;
        if (!inside(ih, s.height)) continue;
        const V x = columns.template load_columns<true>(input + ih * s.width + iw);
        acc[r] = fma_range(x, w, acc[r], columns.lanes);
      }
    }
  }

  activate(p.activation, acc);
  T* output = static_cast<T*>(p.output) + (plane * s.out_height + oh) * s.out_width + ow;
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    if (r >= rows) continue;
    store_partial(output + r * s.out_width, acc[r], min_of(L, s.out_width - ow));
  }
}

template <int S, class T>
void run_nchw(const DepthwiseConv2dParams& p, int64_t begin, int64_t end) {
  const DepthwiseConv2dShape& s = p.shape;
  for (int64_t unit = begin; unit < end; ++unit) {
    const PlaneUnit u = plane_unit(unit, s.out_height);
    for (int64_t r = 0; r < u.rows; r += kRows) {
      for (int64_t ow = 0; ow < s.out_width; ow += kLanes<T>) {
        rows_tile<S, T>(p, u.plane, u.row + r, u.rows - r, ow);
      }
    }
  }
}

}  // namespace

void depthwise_nhwc_any(const DepthwiseConv2dParams& p, int64_t begin, int64_t end) {
  dispatch_dtype(p.shape.dtype, [&](auto element) {
    using T = decltype(element);
    return p.shape.multiplier == 1 ? run_nhwc<false, T>(p, begin, end)
                                   : run_nhwc<true, T>(p, begin, end);
  });
}

void depthwise_nchw_any(const DepthwiseConv2dParams& p, int64_t begin, int64_t end) {
  dispatch_dtype(p.shape.dtype, [&](auto element) {
    using T = decltype(element);
    if (p.shape.stride_w == 1) return run_nchw<1, T>(p, begin, end);
    if (p.shape.stride_w == 2) return run_nchw<2, T>(p, begin, end);
    return run_nchw<0, T>(p, begin, end);
  });
}

}  // namespace fastconv::FASTCONV_ISA
