// One vector of channels at a time, in strips of rows copied to scratch, whose pixels are dense
// vectors. Of contiguous tensors they are transposed, so that lanes are channels: no width of a map
// leaves lanes empty, and no tap shifts a vector along the row. Of channels_last tensors, whose
// pixels lie far apart and push each other out of the L1 cache, they are copied.
#include "depthwise_conv2d_strips.h"

namespace fastconv::FASTCONV_ISA {
namespace {

// Rows [first, last) of one side and the rows of the other that they meet.
struct RowSpan {
  int64_t first, last;
  FASTCONV_INLINE int64_t count() const { return last - first; }
};

FASTCONV_INLINE RowSpan rows_read(const DepthwiseConv2dShape& s, RowSpan out) {
  const int64_t reach = s.dilation_h * (s.kernel_h - 1) + 1;
  const int64_t first = clamp(out.first * s.stride_h - s.pad_top, 0, s.height);
  return {first, clamp((out.last - 1) * s.stride_h - s.pad_top + reach, first, s.height)};
}

FASTCONV_INLINE RowSpan rows_reading(const DepthwiseConv2dShape& s, RowSpan in) {
  const int64_t reach = s.dilation_h * (s.kernel_h - 1);
  const int64_t lowest = in.first + s.pad_top - reach, highest = in.last - 1 + s.pad_top;
  const int64_t first = lowest <= 0 ? 0 : min_of(div_up(lowest, s.stride_h), s.out_height);
  return {first, highest < 0 ? first : clamp(highest / s.stride_h + 1, first, s.out_height)};
}

// The convolution of the strip alone, channels_last in the type that computes.
template <class T>
FASTCONV_INLINE DepthwiseConv2dShape strip_of(const DepthwiseConv2dShape& s, RowSpan in,
                                              RowSpan out) {
  DepthwiseConv2dShape strip = s;
  strip.batch = 1, strip.channels = kLanes<T>;
  strip.height = in.count(), strip.out_height = out.count();
  strip.pad_top = s.pad_top + in.first - out.first * s.stride_h;
  strip.layout = Layout::kNHWC;
  strip.dtype = sizeof(accumulate_t<T>) == 8 ? DType::kFloat64 : DType::kFloat32;
  return strip;
}

// Where the strips of one vector of planes lie in scratch.
template <class T>
struct Strip {
  using A = accumulate_t<T>;
  A *weight, *bias, *input, *output;

  FASTCONV_INLINE Strip(const DepthwiseConv2dShape& s, void* scratch) {
    constexpr int64_t L = kLanes<T>;
    weight = static_cast<A*>(scratch);
    bias = weight + s.taps() * L;
    input = bias + L;
    output = input + depthwise_conv2d_strip_inputs(s, depthwise_conv2d_strip_rows(s)) * s.width * L;
  }
};

// Calls f(image, first channel, channels, rows) for the strips of units [begin, end).
template <class T, class F>
FASTCONV_INLINE void for_each_strip(const DepthwiseConv2dShape& s, int64_t height, int64_t rows,
                                    int64_t begin, int64_t end, const F& f) {
  const int64_t blocks = div_up(s.channels, kDepthwisePlanes);
  for (int64_t unit = begin; unit < end; ++unit) {
    const PlaneUnit u = plane_unit(unit, height);
    const int64_t c = u.plane % blocks * kDepthwisePlanes;
    const int64_t last = min_of(c + kDepthwisePlanes, s.channels);
    for (int64_t first = c; first < last; first += kLanes<T>) {
      const int64_t n = min_of<int64_t>(kLanes<T>, last - first);
      for (int64_t r = u.row; r < u.row + u.rows; r += rows) {
        f(u.plane / blocks, first, n, RowSpan{r, min_of(r + rows, u.row + u.rows)});
      }
    }
  }
}

template <class T>
FASTCONV_INLINE ChannelVector<const T> weight_of(const DepthwiseConv2dShape& s, const void* weight,
                                                 int64_t c, int64_t n) {
  return {static_cast<const T*>(weight), s.layout, s.channels, s.taps(), 0, c, n};
}

template <class T, class P>
FASTCONV_INLINE ChannelVector<T> input_of(const DepthwiseConv2dShape& s, P* input, int64_t image,
                                          int64_t c, int64_t n) {
  return {static_cast<T*>(input), s.layout, s.channels, s.height * s.width, image, c, n};
}

template <class T, class P>
FASTCONV_INLINE ChannelVector<T> output_of(const DepthwiseConv2dShape& s, P* output, int64_t image,
                                           int64_t c, int64_t n) {
  return {static_cast<T*>(output), s.layout, s.channels, s.out_height * s.out_width, image, c, n};
}

template <class T>
void forward(const DepthwiseConv2dParams& p, void* scratch, int64_t begin, int64_t end) {
  const DepthwiseConv2dShape& s = p.shape;
  const Strip<T> strip(s, scratch);
  DepthwiseConv2dParams q = p;
  q.input = strip.input, q.weight = strip.weight, q.output = strip.output;
  q.bias = p.bias ? strip.bias : nullptr;
  const bool correlates = depthwise_conv2d_correlates(s);
  const int64_t rows = depthwise_conv2d_strip_rows(s);
  for_each_strip<T>(s, s.out_height, rows, begin, end,
                    [&](int64_t image, int64_t c, int64_t n, RowSpan out) {
                      const RowSpan in = rows_read(s, out);
                      weight_of<T>(s, p.weight, c, n).read(0, s.taps(), strip.weight);
                      if (p.bias)
                        store(strip.bias, load_partial(static_cast<const T*>(p.bias) + c, n));
                      input_of<const T>(s, p.input, image, c, n)
                          .read(in.first * s.width, in.count() * s.width, strip.input);
                      q.shape = strip_of<T>(s, in, out);
                      if (correlates) {
                        depthwise_correlate<accumulate_t<T>>(q);
                      } else {
                        depthwise_forward(q, nullptr, 0, depthwise_conv2d_units(q.shape));
                      }
                      output_of<T>(s, p.output, image, c, n)
                          .write(out.first * s.out_width, out.count() * s.out_width, strip.output);
                    });
}

template <class T>
void backward_input(const DepthwiseConv2dBackwardInputParams& p, void* scratch, int64_t begin,
                    int64_t end) {
  const DepthwiseConv2dShape& s = p.shape;
  const Strip<T> strip(s, scratch);
  DepthwiseConv2dBackwardInputParams q = p;
  q.grad_input = strip.input, q.weight = strip.weight, q.grad_output = strip.output;
  const int64_t rows = depthwise_conv2d_strip_rows(s) * s.stride_h;
  for_each_strip<T>(
      s, s.height, rows, begin, end, [&](int64_t image, int64_t c, int64_t n, RowSpan in) {
        const RowSpan out = rows_reading(s, in);
        weight_of<T>(s, p.weight, c, n).read(0, s.taps(), strip.weight);
        output_of<const T>(s, p.grad_output, image, c, n)
            .read(out.first * s.out_width, out.count() * s.out_width, strip.output);
        q.shape = strip_of<T>(s, in, out);
        depthwise_backward_input(q, nullptr, 0, depthwise_conv2d_backward_input_units(q.shape));
        input_of<T>(s, p.grad_input, image, c, n)
            .write(in.first * s.width, in.count() * s.width, strip.input);
      });
}

template <class T>
void backward_weight(const DepthwiseConv2dBackwardWeightParams& p, void* scratch, int64_t begin,
                     int64_t end) {
  using A = accumulate_t<T>;
  constexpr int64_t L = kLanes<T>;
  const DepthwiseConv2dShape& s = p.shape;
  const Strip<T> strip(s, scratch);
  const bool correlates = depthwise_conv2d_correlates_weight(s);
  const int64_t step = depthwise_conv2d_strip_rows(s), chunks = depthwise_conv2d_chunks(s);
  const int64_t blocks = depthwise_conv2d_channel_blocks(s);
  DepthwiseWeightRows<A> rows = {};
  rows.input = strip.input, rows.grad_output = strip.output;
  rows.partial = strip.weight, rows.partial_step = L;  // the bias sums follow those of the taps
  rows.last_channel = L;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t chunk = unit / blocks, block = unit % blocks * kDepthwisePlanes;
    const int64_t last = s.batch * s.out_height * (chunk + 1) / chunks;
    for (int64_t c = block; c < min_of(block + kDepthwisePlanes, s.channels); c += L) {
      const int64_t n = min_of(L, s.channels - c);
      for (int64_t t = 0; t <= s.taps(); ++t) store(rows.partial + t * L, vec_t<A>::set1(0));
      for (int64_t row = s.batch * s.out_height * chunk / chunks; row < last;) {
        const int64_t image = row / s.out_height, first = row % s.out_height;
        const RowSpan out = {first, min_of(first + min_of(step, last - row), s.out_height)};
        const RowSpan in = rows_read(s, out);
        input_of<const T>(s, p.input, image, c, n)
            .read(in.first * s.width, in.count() * s.width, strip.input);
        output_of<const T>(s, p.grad_output, image, c, n)
            .read(out.first * s.out_width, out.count() * s.out_width, strip.output);
        rows.shape = strip_of<T>(s, in, out);
        rows.last = out.count();
        if (correlates) {
          depthwise_correlate_weight(rows);
        } else {
          depthwise_weight_rows(rows);
        }
        row += out.count();
      }
      for (int64_t t = 0; t <= s.taps(); ++t) {
        A* sum = static_cast<A*>(p.partial) + (chunk * (s.taps() + 1) + t) * s.channels + c;
        store_partial(sum, load(rows.partial + t * L), n);
      }
    }
  }
}

}  // namespace

void depthwise_strips(const DepthwiseConv2dParams& p, void* scratch, int64_t begin, int64_t end) {
  dispatch_dtype(p.shape.dtype,
                 [&](auto element) { forward<decltype(element)>(p, scratch, begin, end); });
}

void depthwise_backward_input_strips(const DepthwiseConv2dBackwardInputParams& p, void* scratch,
                                     int64_t begin, int64_t end) {
  dispatch_dtype(p.shape.dtype,
                 [&](auto element) { backward_input<decltype(element)>(p, scratch, begin, end); });
}

void depthwise_backward_weight_strips(const DepthwiseConv2dBackwardWeightParams& p, void* scratch,
                                      int64_t begin, int64_t end) {
  dispatch_dtype(p.shape.dtype,
                 [&](auto element) { backward_weight<decltype(element)>(p, scratch, begin, end); });
}

}  // namespace fastconv::FASTCONV_ISA
