// The paths of depthwise_conv2d.cpp, one file each, and what they share.
#pragma once

#include <type_traits>

#include "../depthwise_conv2d.h"
#include "registry.h"
#include "simd/simd.h"
#include "streaming.h"

namespace fastconv::FASTCONV_ISA {

// The path that the variant of a shape names.
void depthwise_forward(const DepthwiseConv2dParams&, void* scratch, int64_t begin, int64_t end);

// Each runs units [begin, end); k and stride are those of the variant.
void depthwise_nhwc_tiles(const DepthwiseConv2dParams&, int64_t begin, int64_t end);
void depthwise_nchw_tiles(const DepthwiseConv2dParams&, int64_t begin, int64_t end);
void depthwise_nhwc_any(const DepthwiseConv2dParams&, int64_t begin, int64_t end);
void depthwise_nchw_any(const DepthwiseConv2dParams&, int64_t begin, int64_t end);

void depthwise_backward_input(const DepthwiseConv2dBackwardInputParams&, void* scratch,
                              int64_t begin, int64_t end);
void depthwise_backward_input_tiles(const DepthwiseConv2dBackwardInputParams&, int64_t begin,
                                    int64_t end);
void depthwise_backward_input_nhwc(const DepthwiseConv2dBackwardInputParams&, int64_t begin,
                                   int64_t end);
void depthwise_backward_input_nchw(const DepthwiseConv2dBackwardInputParams&, int64_t begin,
                                   int64_t end);

void depthwise_backward_weight_nhwc(const DepthwiseConv2dBackwardWeightParams&, int64_t begin,
                                    int64_t end);
void depthwise_backward_weight_nchw(const DepthwiseConv2dBackwardWeightParams&, int64_t begin,
                                    int64_t end);
void depthwise_sum_partials(const DepthwiseConv2dBackwardWeightParams&, int64_t begin, int64_t end);

void depthwise_strips(const DepthwiseConv2dParams&, void* scratch, int64_t begin, int64_t end);
void depthwise_backward_input_strips(const DepthwiseConv2dBackwardInputParams&, void* scratch,
                                     int64_t begin, int64_t end);
void depthwise_backward_weight_strips(const DepthwiseConv2dBackwardWeightParams&, void* scratch,
                                      int64_t begin, int64_t end);

// Output rows [first, last) of one channels_last image, channels [channel, last_channel), added to
// the sums of each tap and of the bias, which are partial_step apart.
template <class T>
struct DepthwiseWeightRows {
  DepthwiseConv2dShape shape;
  const T* grad_output;  // the image, channel 0
  const T* input;
  accumulate_t<T>* partial;  // tap 0, channel 0
  int64_t partial_step;
  int64_t first, last, channel, last_channel;
};

template <class T>
void depthwise_weight_rows(const DepthwiseWeightRows<T>&);
template <class T>
void depthwise_weight_tiles(const DepthwiseWeightRows<T>&);

// Over strips, any kernel at stride 1.
template <class A>
void depthwise_correlate(const DepthwiseConv2dParams&);
template <class A>
void depthwise_correlate_weight(const DepthwiseWeightRows<A>&);

FASTCONV_INLINE bool inside(int64_t index, int64_t size) {
  return static_cast<uint64_t>(index) < static_cast<uint64_t>(size);
}

FASTCONV_INLINE int64_t clamp(int64_t x, int64_t low, int64_t high) {
  return max_of(low, min_of(x, high));
}

// n lanes; all of them in a full vector, without a mask.
template <bool Full, class T>
FASTCONV_INLINE vec_t<T> load_lanes(const T* p, int64_t n) {
  if constexpr (Full) return load(p);
  return load_partial(p, n);
}

template <bool Full, class T>
FASTCONV_INLINE void store_lanes(T* p, vec_t<T> v, int64_t n) {
  if constexpr (Full) {
    store(p, v);
  } else {
    store_partial(p, v, n);
  }
}

// n output channels from c on as lanes; with Repeat, lane i reads input channel (c + i) /
// multiplier.
template <bool Repeat, class T>
struct ChannelLanes {
  static constexpr bool kRepeat = Repeat;
  int64_t input_channel, inputs;
  int32_t lane[kLanes<T>];

  FASTCONV_INLINE ChannelLanes(int64_t c, int64_t n, int64_t multiplier)
      : input_channel(c), inputs(n) {
    if constexpr (Repeat) {
      input_channel = c / multiplier;
      inputs = (c + n - 1) / multiplier - input_channel + 1;
      for (int i = 0; i < kLanes<T>; ++i) lane[i] = int32_t((c + i) / multiplier - input_channel);
    }
  }

  // The lanes of the pixel whose channel 0 is at p.
  template <bool Full = false>
  FASTCONV_INLINE vec_t<T> load_pixel(const T* p) const {
    const vec_t<T> x = load_lanes<Full>(p + input_channel, inputs);
    if constexpr (Repeat) return permute(x, lane);
    return x;
  }
};

// Lanes of a row of `width` read from column `column` on, every stride-th: those inside the image.
FASTCONV_INLINE LaneRange lanes_inside(int64_t column, int64_t stride, int64_t width,
                                       int64_t lanes) {
  const int64_t first = column < 0 ? div_up(-column, stride) : 0;
  const int64_t last = column < width ? div_up(width - column, stride) : 0;
  return {min_of(first, lanes), min_of(last, lanes)};
}

// Loads every stride-th column of a row from p on, in the lanes of range; the others are zero. The
// masks are worked out once and serve many rows. S is the stride, or 0 where only `stride` knows
// it.
template <int S, class T>
struct ColumnLoader {
  using V = vec_t<T>;
  using Mask = typename V::Mask;
  LaneRange range;
  int64_t stride;
  Mask lanes, low, high;  // of the result; of the two vectors that hold the columns where S is 2

  FASTCONV_INLINE void set(LaneRange r, int64_t step) {
    constexpr int64_t L = kLanes<T>;
    const int64_t first = 2 * r.first, last = 2 * r.last - 1;
    range = r, stride = step;
    lanes = V::mask(r);
    low = V::mask({min_of(first, L), clamp(last, 0, L)});
    high = V::mask({clamp(first - L, 0, L), clamp(last - L, 0, L)});
  }

  // Without Edge, all lanes are in range and S * lanes columns from p on are inside the row.
  template <bool Edge>
  FASTCONV_INLINE V load_columns(const T* p) const {
    constexpr int64_t L = kLanes<T>;
    if constexpr (S == 1) return Edge ? load_range(p, lanes) : load(p);
    if constexpr (S == 2 && Edge) return even_lanes(load_range(p, low), load_range(p + L, high));
    if constexpr (S == 2) return even_lanes(load(p), load(p + L));
    accumulate_t<T> values[L] = {};
    for (int64_t i = range.first; i < range.last; ++i) values[i] = widen(p[i * stride]);
    return load(values);
  }
};

// NHWC units [unit, end), or as many of the first as lie in one group of kDepthwiseGroupRows rows
// of one image, and in one block of channels.
struct RowsUnit {
  int64_t image, row, rows, channel, channels;
  int64_t units;  // taken
};

FASTCONV_INLINE RowsUnit rows_unit(int64_t unit, int64_t end, int64_t channels, int64_t height) {
  constexpr int64_t kGroup = kDepthwiseGroupRows / kDepthwiseUnitRows;
  const int64_t blocks = depthwise_channel_blocks(channels);
  const int64_t row_units = div_up(height, kDepthwiseUnitRows);
  const int64_t image = unit / (row_units * blocks), in_image = unit % (row_units * blocks);
  const int64_t group = in_image / (kGroup * blocks) * kGroup;
  const int64_t in_group = in_image - group * blocks;
  const int64_t size = min_of(kGroup, row_units - group);
  const ChannelBlock block = depthwise_channel_block(channels, in_group / size);
  const int64_t first = in_group % size, units = min_of(size - first, end - unit);
  const int64_t row = (group + first) * kDepthwiseUnitRows;
  const int64_t rows = min_of(units * kDepthwiseUnitRows, height - row);
  return {image, row, rows, block.first, block.count, units};
}

// Keeps a pointer in its own register: g++ would rebuild it from its neighbours at every use.
template <class P>
FASTCONV_INLINE P* forget_origin(P* pointer) {
  asm("" : "+r"(pointer));
  return pointer;
}

// N channels_last pixels of a row, a pointer for each three: the processor adds up the rest.
template <int N, class P>
struct Pixels {
  static constexpr int kGroups = (N + 2) / 3;
  P* group[kGroups];
  int64_t step;

  FASTCONV_INLINE Pixels(P* first, int64_t pixel) : step(pixel) {
#pragma GCC unroll 8
    for (int i = 0; i < kGroups; ++i)
      group[i] = forget_origin(i ? group[i - 1] + 3 * pixel : first);
  }
  FASTCONV_INLINE P* operator[](int i) const { return group[i / 3] + i % 3 * step; }
};

// Which columns of a tile may be missing: none, those read at either end where the padding is that
// of half a kernel, or any, read or written. Each question costs a branch: 1x384x14x14 3x3 took 7.4
// us asking for every column, 6.0 at the ends (one core of a Zen 5).
enum class Columns { kInside, kPadded, kAny };

// One NCHW unit: up to kDepthwisePlaneRows rows of one plane, planes counted over the batch.
struct PlaneUnit {
  int64_t plane, row, rows;
};

FASTCONV_INLINE PlaneUnit plane_unit(int64_t unit, int64_t height) {
  const int64_t strips = div_up(height, kDepthwisePlaneRows);
  PlaneUnit u;
  u.plane = unit / strips;
  u.row = unit % strips * kDepthwisePlaneRows;
  u.rows = min_of(kDepthwisePlaneRows, height - u.row);
  return u;
}

// Activations too long to be copied into every tile.
template <class V>
__attribute__((noinline)) static void activate_apart(Activation kind, V* z, int n) {
  dispatch_activation(kind, [&](auto act) {
    for (int i = 0; i < n; ++i) z[i] = act.forward(z[i]);
  });
}

template <int N, class V>
FASTCONV_INLINE void activate(Activation kind, V (&z)[N]) {
  if (kind == Activation::kNone) return;
  if (kind == Activation::kReLU || kind == Activation::kReLU6) {
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) z[i] = ActivationOp<Activation::kReLU>::forward(z[i]);
    if (kind == Activation::kReLU) return;
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) z[i] = min(V::set1(6), z[i]);
    return;
  }
  V copy[N];  // its address escapes; that of z must not, or z would live in memory
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) copy[i] = z[i];
  activate_apart(kind, copy, N);
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) z[i] = copy[i];
}

template <int value>
using Constant = std::integral_constant<int, value>;

// Calls run(kernel, stride) with the constants of a shape that fits the tiles. Without vectors none
// does, and the instances would take long to compile.
template <class Run>
FASTCONV_INLINE void dispatch_window(const DepthwiseConv2dShape& s, Run&& run) {
  if constexpr (kLanes<float> > 1) {
    const auto with_stride = [&](auto kernel) {
      return s.stride_h == 1 ? run(kernel, Constant<1>{}) : run(kernel, Constant<2>{});
    };
    if (s.kernel_h == 3) return with_stride(Constant<3>{});
    if (s.kernel_h == 5) return with_stride(Constant<5>{});
    return with_stride(Constant<7>{});
  }
}

// The same with a value of the shape's type.
template <class Run>
FASTCONV_INLINE void dispatch_tile(const DepthwiseConv2dShape& s, Run&& run) {
  dispatch_window(s, [&](auto kernel, auto stride) {
    if (s.dtype == DType::kFloat32) return run(kernel, stride, float{});
    if (s.dtype == DType::kBFloat16) return run(kernel, stride, bfloat16{});
    return run(kernel, stride, float16{});
  });
}

}  // namespace fastconv::FASTCONV_ISA
