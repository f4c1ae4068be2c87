// Gradient of the input for strides and multipliers above 1 (stride 1 is the forward pass on
// flipped weights): each input pixel gathers from the outputs that read it, nothing is scattered.
#include "depthwise_conv2d_paths.h"

namespace fastconv::FASTCONV_ISA {
namespace {

// The taps k, k + k_step, ... (count of them) that read one input index, and the output indices
// o, o - o_step, ... they read it for.
struct TapRange {
  int64_t k, k_step, o, o_step, count;
};

// Solves o * stride = index + pad - k * dilation for 0 <= k < kernel, o of either sign. The taps
// repeat with period stride / gcd(stride, dilation), and o falls by dilation / gcd meanwhile.
FASTCONV_INLINE TapRange taps_of(int64_t index, int64_t pad, int64_t kernel, int64_t stride,
                                 int64_t dilation) {
  int64_t gcd = stride, rest = dilation;
  while (rest != 0) {
    const int64_t next = gcd % rest;
    gcd = rest, rest = next;
  }
  TapRange t = {0, stride / gcd, 0, dilation / gcd, 0};
  for (; t.k < min_of(t.k_step, kernel); ++t.k) {
    const int64_t reach = index + pad - t.k * dilation;
    if (reach % stride != 0) continue;
    t.o = reach / stride;
    t.count = div_up(kernel - t.k, t.k_step);
    break;
  }
  return t;
}

// Only the taps whose output index is inside [0, size).
FASTCONV_INLINE TapRange clipped(TapRange t, int64_t size) {
  const int64_t skip = t.o >= size ? div_up(t.o - size + 1, t.o_step) : 0;
  t.k += skip * t.k_step;
  t.o -= skip * t.o_step;
  t.count = t.o < 0 ? 0 : min_of(t.count - skip, t.o / t.o_step + 1);
  return t;
}

// One input pixel: the taps that read it, and where their first operands are.
template <class T>
struct Gather {
  const T* grad_output;  // of the first tap, channel 0
  const T* weight;       // likewise
  int64_t rows, columns;
  int64_t grad_row_step, grad_column_step, weight_row_step, weight_column_step;
};

// The sum over taps for one vector of output channels. Rows x Columns taps, 0 where only g knows.
template <int Rows, int Columns, bool Full, class T>
FASTCONV_INLINE vec_t<T> gather(const Gather<T>& g, int64_t c, int64_t n) {
  using V = vec_t<T>;
  const int64_t rows = Rows ? Rows : g.rows, columns = Columns ? Columns : g.columns;
  V acc = V::set1(0);
#pragma GCC unroll 4
  for (int64_t a = 0; a < rows; ++a) {
#pragma GCC unroll 4
    for (int64_t b = 0; b < columns; ++b) {
      const T* grad = g.grad_output + c + a * g.grad_row_step + b * g.grad_column_step;
      const T* weight = g.weight + c + a * g.weight_row_step + b * g.weight_column_step;
      acc = fma(load_lanes<Full>(grad, n), load_lanes<Full>(weight, n), acc);
    }
  }
  return acc;
}

// Channels [c, last) of one pixel.
template <int Rows, int Columns, class T>
void gather_pixel(const Gather<T>& g, int64_t c, int64_t last, T* grad_input) {
  constexpr int64_t L = kLanes<T>;
  for (; c + L <= last; c += L) store(grad_input + c, gather<Rows, Columns, true>(g, c, L));
  if (c < last) {
    store_partial(grad_input + c, gather<Rows, Columns, false>(g, c, last - c), last - c);
  }
}

// The same for a multiplier m above 1: [c, last) are output channels, m of them fold into one.
template <class T>
void fold_pixel(const Gather<T>& g, int64_t c, int64_t last, int64_t m, T* grad_input) {
  constexpr int64_t L = kLanes<T>;
  accumulate_t<T> lanes[L], sum = 0;
  for (; c < last; c += L) {
    const int64_t n = min_of(L, last - c);
    store(lanes, gather<0, 0, false>(g, c, n));
    for (int64_t i = 0; i < n; ++i) {
      sum += lanes[i];
      if ((c + i + 1) % m != 0) continue;
      narrow(sum, grad_input + (c + i) / m);
      sum = 0;
    }
  }
}

// Kernels of 3, 5 and 7 at stride 2 meet 1 to 4 rows and columns.
template <class T>
FASTCONV_INLINE void pixel(const Gather<T>& g, int64_t c, int64_t last, T* grad_input) {
#define FASTCONV_GATHER(r, k) \
  if (g.rows == r && g.columns == k) return gather_pixel<r, k>(g, c, last, grad_input);
  FASTCONV_GATHER(1, 1)
  FASTCONV_GATHER(1, 2)
  FASTCONV_GATHER(2, 1)
  FASTCONV_GATHER(2, 2)
  FASTCONV_GATHER(2, 3)
  FASTCONV_GATHER(3, 2)
  FASTCONV_GATHER(3, 3)
  FASTCONV_GATHER(3, 4)
  FASTCONV_GATHER(4, 3)
  FASTCONV_GATHER(4, 4)
#undef FASTCONV_GATHER
  gather_pixel<0, 0>(g, c, last, grad_input);
}

template <class T>
void run_nhwc(const DepthwiseConv2dBackwardInputParams& p, int64_t begin, int64_t end) {
  const DepthwiseConv2dShape& s = p.shape;
  for (int64_t unit = begin; unit < end;) {
    const RowsUnit u = rows_unit(unit, end, s.channels, s.height);
    unit += u.units;
    const int64_t C = s.out_channels(), m = s.multiplier;
    const T* grad_output =
        static_cast<const T*>(p.grad_output) + u.image * s.out_height * s.out_width * C;
    for (int64_t ih = u.row; ih < u.row + u.rows; ++ih) {
      const TapRange rows =
          clipped(taps_of(ih, s.pad_top, s.kernel_h, s.stride_h, s.dilation_h), s.out_height);
      T* grad_input =
          static_cast<T*>(p.grad_input) + (u.image * s.height + ih) * s.width * s.channels;
      for (int64_t iw = 0; iw < s.width; ++iw) {
        const TapRange columns =
            clipped(taps_of(iw, s.pad_left, s.kernel_w, s.stride_w, s.dilation_w), s.out_width);
        const Gather<T> g = {
            grad_output + (rows.o * s.out_width + columns.o) * C,
            static_cast<const T*>(p.weight) + (rows.k * s.kernel_w + columns.k) * C,
            rows.count,
            columns.count,
            -rows.o_step * s.out_width * C,
            -columns.o_step * C,
            rows.k_step * s.kernel_w * C,
            columns.k_step * C,
        };
        T* target = grad_input + iw * s.channels;
        if (m == 1) {
          pixel(g, u.channel, u.channel + u.channels, target);
        } else {
          fold_pixel(g, u.channel * m, (u.channel + u.channels) * m, m, target);
        }
      }
    }
  }
}

constexpr int kRows = 4;

// Input rows a stride apart (kRows of them) and columns a stride apart (one vector, the v-th of its
// phase on) read the same taps, from consecutive outputs: whole vectors are loaded.
template <class T>
FASTCONV_INLINE void sum_phase(const DepthwiseConv2dBackwardInputParams& p, int64_t plane,
                               const TapRange& rows, const TapRange& columns, int64_t v,
                               vec_t<T> (&acc)[kRows]) {
  using V = vec_t<T>;
  const DepthwiseConv2dShape& s = p.shape;
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) acc[r] = V::set1(0);
  for (int64_t j = 0; j < s.multiplier; ++j) {
    const int64_t out_plane = plane * s.multiplier + j;
    const T* grad_output =
        static_cast<const T*>(p.grad_output) + out_plane * s.out_height * s.out_width;
    const T* weight = static_cast<const T*>(p.weight) + out_plane % s.out_channels() * s.taps();
    for (int64_t b = 0; b < columns.count; ++b) {
      const int64_t ow = columns.o - b * columns.o_step + v;
      const LaneRange range = lanes_inside(ow, 1, s.out_width, kLanes<T>);
      if (range.first >= range.last) continue;
      const auto lanes = V::mask(range);
      for (int64_t a = 0; a < rows.count; ++a) {
        const int64_t tap =
            (rows.k + a * rows.k_step) * s.kernel_w + columns.k + b * columns.k_step;
        const V w = V::set1(widen(weight[tap]));
        const int64_t oh = rows.o - a * rows.o_step;
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          if (!inside(oh + r, s.out_height)) continue;
          const T* g = grad_output + (oh + r) * s.out_width + ow;
          acc[r] = fma_range(load_range(g, lanes), w, acc[r], lanes);
        }
      }
    }
  }
}

// Lane i of each of the S vectors goes to columns i * S, i * S + 1, ...: at stride 2 two vectors
// are woven into consecutive columns, which the compiler turns into shuffles.
template <int S, class T>
FASTCONV_INLINE void store_columns(const vec_t<T> (&v)[S], T* p, int64_t stride, int64_t count) {
  constexpr int64_t L = kLanes<T>;
  accumulate_t<T> lanes[S][L];
  for (int q = 0; q < S; ++q) store(lanes[q], v[q]);
  if (S == stride) {
    T woven[S * L];
    for (int64_t i = 0; i < L; ++i) {
      for (int q = 0; q < S; ++q) narrow(lanes[q][i], woven + i * S + q);
    }
    for (int64_t i = 0; i < min_of(S * L, count); i += L) {
      store_partial(p + i, load(woven + i), min_of(L, count - i));
    }
    return;
  }
  for (int q = 0; q < S; ++q) {
    for (int64_t i = 0; i * stride + q < count && i < L; ++i) {
      narrow(lanes[q][i], p + i * stride + q);
    }
  }
}

// Columns from vector v on of `count` rows, the first at target.
template <class T>
FASTCONV_INLINE void rows_tile(const DepthwiseConv2dBackwardInputParams& p, int64_t plane,
                               const TapRange& rows, const TapRange (&phases)[2], int64_t v,
                               int64_t count, T* target) {
  using V = vec_t<T>;
  const DepthwiseConv2dShape& s = p.shape;
  const int64_t columns = s.width - v * s.stride_w, step = s.stride_h * s.width;
  if (s.stride_w == 2) {
    V even[kRows], odd[kRows];
    sum_phase<T>(p, plane, rows, phases[0], v, even);
    sum_phase<T>(p, plane, rows, phases[1], v, odd);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      if (r >= count) continue;
      const V both[2] = {even[r], odd[r]};
      store_columns<2, T>(both, target + r * step, 2, columns);
    }
    return;
  }
  for (int64_t phase = 0; phase < min_of(s.stride_w, columns); ++phase) {
    V acc[kRows];
    const TapRange taps = taps_of(phase, s.pad_left, s.kernel_w, s.stride_w, s.dilation_w);
    sum_phase<T>(p, plane, rows, taps, v, acc);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      if (r >= count) continue;
      const V one[1] = {acc[r]};
      store_columns<1, T>(one, target + r * step + phase, s.stride_w, columns - phase);
    }
  }
}

template <class T>
void run_nchw(const DepthwiseConv2dBackwardInputParams& p, int64_t begin, int64_t end) {
  const DepthwiseConv2dShape& s = p.shape;
  const TapRange phases[2] = {taps_of(0, s.pad_left, s.kernel_w, s.stride_w, s.dilation_w),
                              taps_of(1, s.pad_left, s.kernel_w, s.stride_w, s.dilation_w)};
  for (int64_t unit = begin; unit < end; ++unit) {
    const PlaneUnit u = plane_unit(unit, s.height);
    T* plane = static_cast<T*>(p.grad_input) + u.plane * s.height * s.width;
    const int64_t last = u.row + u.rows;
    for (int64_t group = u.row; group < last; group += kRows * s.stride_h) {
      for (int64_t ih = group; ih < min_of(group + s.stride_h, last); ++ih) {
        const TapRange rows = taps_of(ih, s.pad_top, s.kernel_h, s.stride_h, s.dilation_h);
        const int64_t count = min_of<int64_t>(kRows, div_up(last - ih, s.stride_h));
        for (int64_t v = 0; v * s.stride_w < s.width; v += kLanes<T>) {
          rows_tile<T>(p, u.plane, rows, phases, v, count, plane + ih * s.width + v * s.stride_w);
        }
      }
    }
  }
}

}  // namespace

void depthwise_backward_input_nhwc(const DepthwiseConv2dBackwardInputParams& p, int64_t begin,
                                   int64_t end) {
  dispatch_dtype(p.shape.dtype, [&](auto element) { run_nhwc<decltype(element)>(p, begin, end); });
}

void depthwise_backward_input_nchw(const DepthwiseConv2dBackwardInputParams& p, int64_t begin,
                                   int64_t end) {
  dispatch_dtype(p.shape.dtype, [&](auto element) { run_nchw<decltype(element)>(p, begin, end); });
}

}  // namespace fastconv::FASTCONV_ISA
