// Gradient of weight and bias, channels_last. Output rows add up in the partial sums of their
// chunk, and chunks are summed in their order by depthwise_sum_partials. Here for any kernel: 8
// taps of one channel vector are accumulators in registers while a strip of 4 output rows is
// walked.
#include <type_traits>

#include "depthwise_conv2d_paths.h"
#include "simd/transpose.h"

namespace fastconv::FASTCONV_ISA {
namespace {

// One strip of one image, one vector of output channels.
template <class T>
struct Strip {
  const T* grad_output;        // pixel (0, 0) of the image, channel c
  const T* input;              // pixel (0, 0) of the image
  accumulate_t<T>* partial;    // tap 0, channel c
  int64_t first, last;         // output rows
  int64_t first_inner, inner;  // output columns [first_inner, inner) read no padding
};

// Kernel rows [kh, kh + Rows), columns [kw, kw + Columns) of which `columns` exist.
template <int Rows, int Columns, bool Repeat, bool Full, class T>
FASTCONV_INLINE void accumulate_taps(const DepthwiseConv2dShape& s, const Strip<T>& strip,
                                     const ChannelLanes<Repeat, T>& lanes, int64_t n, int64_t kh,
                                     int64_t kw, int64_t columns) {
  using V = vec_t<T>;
  const int64_t C = s.channels, out_channels = s.out_channels();
  const bool with_bias = kh == 0 && kw == 0;
  V acc[Rows * Columns];
#pragma GCC unroll 32
  for (int t = 0; t < Rows * Columns; ++t) acc[t] = V::set1(0);
  V bias = V::set1(0);

  for (int64_t oh = strip.first; oh < strip.last; ++oh) {
    const T* g = strip.grad_output + oh * s.out_width * out_channels;
    const int64_t top = oh * s.stride_h - s.pad_top + kh * s.dilation_h;
    const int64_t left = kw * s.dilation_w - s.pad_left;
    const T* x[Rows];
    bool rows_inside = true;
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const int64_t ih = top + r * s.dilation_h;
      x[r] = inside(ih, s.height) ? strip.input + (ih * s.width + left) * C : nullptr;
      rows_inside &= x[r] != nullptr;
    }
    const auto border = [&](int64_t from, int64_t to) {
      for (int64_t ow = from; ow < to; ++ow) {
        const V grad = load_lanes<Full>(g + ow * out_channels, n);
        bias = bias + grad;
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
          if (x[r] == nullptr) continue;
#pragma GCC unroll 8
          for (int k = 0; k < Columns; ++k) {
            const int64_t column = ow * s.stride_w + k * s.dilation_w;
            if (k >= columns || !inside(left + column, s.width)) continue;
            V& sum = acc[r * Columns + k];
            sum = fma(grad, lanes.template load_pixel<Full>(x[r] + column * C), sum);
          }
        }
      }
    };
    if (!rows_inside || columns < Columns) {
      border(0, s.out_width);
      continue;
    }
    border(0, strip.first_inner);
    for (int64_t ow = strip.first_inner; ow < strip.inner; ++ow) {
      const V grad = load_lanes<Full>(g + ow * out_channels, n);
      bias = bias + grad;
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
        for (int k = 0; k < Columns; ++k) {
          const int64_t column = ow * s.stride_w + k * s.dilation_w;
          V& sum = acc[r * Columns + k];
          sum = fma(grad, lanes.template load_pixel<Full>(x[r] + column * C), sum);
        }
      }
    }
    border(strip.inner, s.out_width);
  }

#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int k = 0; k < Columns; ++k) {
      if (k >= columns) continue;
      accumulate_t<T>* sum = strip.partial + ((kh + r) * s.kernel_w + kw + k) * out_channels;
      store_partial(sum, load_partial(sum, n) + acc[r * Columns + k], n);
    }
  }
  if (with_bias) {
    accumulate_t<T>* sum = strip.partial + s.taps() * out_channels;
    store_partial(sum, load_partial(sum, n) + bias, n);
  }
}

template <class T>
FASTCONV_INLINE void any_size(const DepthwiseConv2dShape& s, const Strip<T>& strip, int64_t c,
                              int64_t n) {
  constexpr int kColumns = 8;
  const auto walk = [&](const auto& lanes) {
    for (int64_t kh = 0; kh < s.kernel_h; ++kh) {
      for (int64_t kw = 0; kw < s.kernel_w; kw += kColumns) {
        const int64_t columns = min_of<int64_t>(kColumns, s.kernel_w - kw);
        accumulate_taps<1, kColumns, std::decay_t<decltype(lanes)>::kRepeat, false>(
            s, strip, lanes, n, kh, kw, columns);
      }
    }
  };
  if (s.multiplier == 1) return walk(ChannelLanes<false, T>(c, n, 1));
  walk(ChannelLanes<true, T>(c, n, s.multiplier));
}

// Channel vector by channel vector, which is the outer loop: for any kernel.
template <class T>
void add_rows(const DepthwiseWeightRows<T>& rows) {
  constexpr int64_t L = kLanes<T>;
  const DepthwiseConv2dShape& s = rows.shape;
  const int64_t reach = s.width + s.pad_left - (s.kernel_w - 1) * s.dilation_w;
  Strip<T> strip;
  strip.first_inner = clamp(s.pad_left > 0 ? div_up(s.pad_left, s.stride_w) : 0, 0, s.out_width);
  strip.inner = clamp(reach > 0 ? div_up(reach, s.stride_w) : 0, strip.first_inner, s.out_width);
  strip.input = rows.input;
  for (int64_t first = rows.first; first < rows.last; first += kDepthwiseStripRows) {
    strip.first = first;
    strip.last = min_of(first + kDepthwiseStripRows, rows.last);
    for (int64_t c = rows.channel; c < rows.last_channel; c += L) {
      strip.grad_output = rows.grad_output + c;
      strip.partial = rows.partial + c;
      any_size<T>(s, strip, c, min_of(L, rows.last_channel - c));
    }
  }
}

template <class T>
void run(const DepthwiseConv2dBackwardWeightParams& p, int64_t begin, int64_t end) {
  using A = accumulate_t<T>;
  const DepthwiseConv2dShape& s = p.shape;
  const int64_t channels = s.out_channels(), blocks = depthwise_conv2d_channel_blocks(s);
  const int64_t rows_of_all = s.batch * s.out_height, chunks = depthwise_conv2d_chunks(s);
  DepthwiseWeightRows<T> rows = {};
  rows.shape = s;
  rows.partial_step = channels;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t chunk = unit / blocks;
    const ChannelBlock block = depthwise_channel_block(channels, unit % blocks);
    rows.channel = block.first, rows.last_channel = block.first + block.count;
    rows.partial = static_cast<A*>(p.partial) + chunk * (s.taps() + 1) * channels;
    for (int64_t t = 0; t <= s.taps(); ++t) {
      for (int64_t c = rows.channel; c < rows.last_channel; ++c) rows.partial[t * channels + c] = 0;
    }
    const int64_t last = rows_of_all * (chunk + 1) / chunks;
    for (int64_t row = rows_of_all * chunk / chunks; row < last;) {
      const int64_t image = row / s.out_height;
      rows.first = row % s.out_height;
      rows.last = min_of(rows.first + last - row, s.out_height);
      rows.input = static_cast<const T*>(p.input) + image * s.height * s.width * s.channels;
      rows.grad_output =
          static_cast<const T*>(p.grad_output) + image * s.out_height * s.out_width * channels;
      depthwise_weight_rows(rows);
      row += rows.last - rows.first;
    }
  }
}

// A vector of channels after the other. Where the taps of a channel are dense in the gradient, a
// square of taps and channels is transposed: 1x1024x7x7 13x13 86 us number by number, 24 so.
template <class T>
void sum_units(const DepthwiseConv2dBackwardWeightParams& p, int64_t begin, int64_t end) {
  using A = accumulate_t<T>;
  using V = vec_t<T>;
  constexpr int64_t L = kLanes<T>;
  const DepthwiseConv2dShape& s = p.shape;
  const int64_t channels = s.out_channels(), chunks = depthwise_conv2d_chunks(s);
  const bool dense = (s.kernel_w == 1 || p.grad_stride_w == 1) &&
                     (s.kernel_h == 1 || p.grad_stride_h == s.kernel_w * p.grad_stride_w) &&
                     (s.kernel_w > 1 || s.kernel_h == 1 || p.grad_stride_h == 1);
  const auto sum = [&](int64_t tap, int64_t c, int64_t n) {
    const A* partial = static_cast<const A*>(p.partial) + tap * channels + c;
    V total = V::set1(0);
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      total = total + load_partial(partial + chunk * (s.taps() + 1) * channels, n);
    }
    return total;
  };
  const int64_t last = min_of(end * kDepthwisePlanes, channels);
  for (int64_t c = begin * kDepthwisePlanes; c < last; c += L) {
    const int64_t n = min_of(L, last - c);
    T* target = static_cast<T*>(p.grad_weight) + c * p.grad_stride_channel;
    for (int64_t tap = 0; tap < s.taps(); tap += L) {
      const int64_t taps = min_of(L, s.taps() - tap);
      V block[L];
      for (int64_t i = 0; i < L; ++i) block[i] = i < taps ? sum(tap + i, c, n) : V::set1(0);
      if (dense) {
        transpose(block);
        for (int64_t i = 0; i < n; ++i) {
          store_partial(target + i * p.grad_stride_channel + tap, block[i], taps);
        }
        continue;
      }
      for (int64_t i = 0; i < taps; ++i) {
        A lanes[L];
        store(lanes, block[i]);
        T* first = target + (tap + i) / s.kernel_w * p.grad_stride_h +
                   (tap + i) % s.kernel_w * p.grad_stride_w;
        for (int64_t j = 0; j < n; ++j) narrow(lanes[j], first + j * p.grad_stride_channel);
      }
    }
    store_partial(static_cast<T*>(p.grad_bias) + c, sum(s.taps(), c, n), n);
  }
}

}  // namespace

template <class T>
void depthwise_weight_rows(const DepthwiseWeightRows<T>& rows) {
  if constexpr (kLanes<float> > 1 && !std::is_same_v<T, double>) {
    if (depthwise_conv2d_weight_fits_tiles(rows.shape)) return depthwise_weight_tiles(rows);
  }
  add_rows(rows);
}

template void depthwise_weight_rows(const DepthwiseWeightRows<float>&);
template void depthwise_weight_rows(const DepthwiseWeightRows<double>&);

void depthwise_backward_weight_nhwc(const DepthwiseConv2dBackwardWeightParams& p, int64_t begin,
                                    int64_t end) {
  dispatch_dtype(p.shape.dtype, [&](auto element) { run<decltype(element)>(p, begin, end); });
}

void depthwise_sum_partials(const DepthwiseConv2dBackwardWeightParams& p, int64_t begin,
                            int64_t end) {
  dispatch_dtype(p.shape.dtype, [&](auto element) { sum_units<decltype(element)>(p, begin, end); });
}

}  // namespace fastconv::FASTCONV_ISA
