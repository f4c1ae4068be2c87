// Pointwise convolution on the CPU: tiles of a matrix product, straight from and to the tensors
// where they are float32 or float64, through scratch where they must be widened or subsampled.
#include "../pointwise_conv2d.h"

#include "gemm.h"
#include "registry.h"
#include "stage.h"

namespace fastconv::FASTCONV_ISA {
namespace {

// With this many rows of weights to a panel, copying the panel together first pays.
constexpr int64_t kRowsWorthStaging = 40;
// A group of pixels passes over one panel of the weights after the other: as many pixels as stay in
// the L1 cache, or in the L2 cache where the weights do not.
constexpr int64_t kWeightBytesInCache = 256 << 10;
constexpr int64_t kGroupBytes = 16 << 10, kLargeGroupBytes = 256 << 10, kGroupTiles = 3;
// Pieces of the work, so that several threads get equal shares of a small one.
constexpr int64_t kUnitsWanted = 16;
// Rows that pass through scratch at a time.
constexpr int64_t kScratchRows = 16;

// An output beyond half the shared cache is gone from it before it is read: it is written past it.
// 28.9 MB (50176 pixels, 24 -> 144): 121 to 224 GFLOP/s; 9.6 MB: no difference (one core, Zen 5).
constexpr int64_t kStreamedBytes = 16 << 20;

template <class S>
FASTCONV_INLINE int64_t padded(int64_t columns) {
  return div_up<int64_t>(columns, kLanes<S>) * kLanes<S>;
}

// The matrix of weights: (in, out) panels for channels_last, (out, in) for contiguous tensors.
template <class T>
FASTCONV_INLINE bool must_prepare(const PointwiseConv2dParams& p) {
  if (kWidens<T>) return true;
  if (p.layout == Layout::kNCHW) return p.weight_in_stride != 1 && p.weight_out_stride != 1;
  return pointwise_conv2d_variant(p) == Variant::pointwise_conv2d_nhwc_packing;
}

// Elements of the prepared weights; a bias to be widened lies behind them.
template <class T>
FASTCONV_INLINE int64_t prepared_weights(const PointwiseConv2dParams& p) {
  const bool nhwc = p.layout == Layout::kNHWC;
  return (nhwc ? padded<accumulate_t<T>>(p.out_channels) : p.out_channels) * p.in_channels;
}

// The units of channels_last: groups of pixels, in them panels.
struct Grid {
  int64_t rows, tiles, groups, panels;

  FASTCONV_INLINE Range group(int64_t i) const {  // of whole tiles but the last
    const Range part = part_of(tiles, groups, i);
    const int64_t first = part.first * kTileRows;
    return {first, min_of(rows, (part.first + part.count) * kTileRows) - first};
  }
  FASTCONV_INLINE int64_t most_rows() const { return div_up(tiles, groups) * kTileRows; }
};

template <class T>
FASTCONV_INLINE Grid grid_nhwc(const PointwiseConv2dParams& p) {
  using S = accumulate_t<T>;
  const int64_t rows = p.batch * p.height * p.width, panels = panel_count<S>(p.out_channels);
  const int64_t tile_bytes = p.in_channels * kTileRows * sizeof(S), tiles = row_tile_count(rows);
  const bool weights_stay =
      p.in_channels * p.out_channels * int64_t(sizeof(S)) <= kWeightBytesInCache;
  const bool gathers = kWidens<T> || is_subsampled(p);
  const int64_t bytes = weights_stay || gathers ? kGroupBytes : kLargeGroupBytes;
  const int64_t fit = max_of<int64_t>(bytes / tile_bytes, kGroupTiles);
  const int64_t groups = max_of(div_up(tiles, fit), div_up(kUnitsWanted, panels));
  return {rows, tiles, min_of(groups, tiles), panels};
}

// Output channels of contiguous tensors in groups.
template <class T>
FASTCONV_INLINE int64_t groups_nchw(const PointwiseConv2dParams& p) {
  const int64_t panels = p.batch * panel_count<accumulate_t<T>>(p.height * p.width);
  const int64_t most = max_of<int64_t>(p.out_channels / (2 * kRowsWorthStaging), 1);
  return min_of(div_up(kUnitsWanted, panels), most);
}

template <class T>
PointwiseConv2dPlan plan_as(const PointwiseConv2dParams& p) {
  using S = accumulate_t<T>;
  PointwiseConv2dPlan plan{};
  const bool nhwc = p.layout == Layout::kNHWC;
  if (must_prepare<T>(p)) {
    plan.prepare_units = nhwc ? panel_count<S>(p.out_channels) : row_tile_count(p.out_channels);
    plan.prepared_bytes = (prepared_weights<T>(p) + (kWidens<T> ? p.out_channels : 0)) * sizeof(S);
  }
  int64_t staged;  // rows or columns of the input copied together
  if (nhwc) {
    const Grid grid = grid_nhwc<T>(p);
    plan.units = grid.groups * grid.panels;
    staged = grid.most_rows();
  } else {
    plan.units = p.batch * panel_count<S>(p.height * p.width) * groups_nchw<T>(p);
    staged = kTileColumns<S>;
  }
  plan.scratch_bytes =
      (kScratchRows * kTileColumns<S> + staged * padded<S>(p.in_channels)) * sizeof(S);
  return plan;
}

template <class T>
void prepare_as(const PointwiseConv2dParams& p, accumulate_t<T>* prepared, int64_t begin,
                int64_t end) {
  using S = accumulate_t<T>;
  const T* weight = static_cast<const T*>(p.weight);
  const int64_t in = p.in_channels, out = p.out_channels;
  const bool nhwc = p.layout == Layout::kNHWC;
  for (int64_t unit = begin; unit < end; ++unit) {
    if (nhwc) {
      const Range panel = panel_at<S>(unit, out);
      stage(weight + panel.first * p.weight_out_stride, p.weight_in_stride, p.weight_out_stride,
            prepared + panel.first * in, padded<S>(panel.count), in, panel.count);
    } else {
      const Range rows = part_of(out, row_tile_count(out), unit);
      stage(weight + rows.first * p.weight_out_stride, p.weight_out_stride, p.weight_in_stride,
            prepared + rows.first * in, in, rows.count, in);
    }
  }
  if (kWidens<T> && begin == 0 && p.bias != nullptr) {
    stage_row(static_cast<const T*>(p.bias), prepared + prepared_weights<T>(p), out);
  }
}

template <class T>
const accumulate_t<T>* bias_of(const PointwiseConv2dParams& p, const accumulate_t<T>* prepared) {
  using S = accumulate_t<T>;
  if (p.bias == nullptr || !kWidens<T>) return static_cast<const S*>(p.bias);
  return prepared + prepared_weights<T>(p);
}

template <class T>
FASTCONV_INLINE bool streams(const PointwiseConv2dParams& p, int64_t row) {
  constexpr uint64_t kVectorBytes = kLanes<T> * sizeof(accumulate_t<T>);
  const int64_t elements = p.batch * p.height * p.width * p.out_channels;
  return elements * int64_t(sizeof(T)) >= kStreamedBytes && row % kLanes<T> == 0 &&
         reinterpret_cast<uintptr_t>(p.output) % kVectorBytes == 0;
}

// output = act(z + residual) with rows `row` elements apart; z may be the output itself.
template <class T, class Act>
void finish(const accumulate_t<T>* z, int64_t z_row, int64_t rows, int64_t columns,
            const T* residual, T* output, int64_t row) {
  constexpr int L = kLanes<T>;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; j += L) {
      const int64_t lanes = min_of<int64_t>(L, columns - j);
      auto v = load_partial(z + i * z_row + j, lanes);
      if (residual != nullptr) v = v + load_partial(residual + i * row + j, lanes);
      store_partial(output + i * row + j, Act::forward(v), lanes);
    }
  }
}

// The panel into the output at offset, rows `row` elements apart; through scratch where it must be
// narrowed.
template <class T>
FASTCONV_INLINE void run_panel(const PointwiseConv2dParams& p, GemmTile<accumulate_t<T>>& t,
                               int64_t offset, int64_t row, accumulate_t<T>* scratch) {
  using S = accumulate_t<T>;
  constexpr S kInfinity = __builtin_inf();
  const T* residual = p.residual ? static_cast<const T*>(p.residual) + offset : nullptr;
  T* output = static_cast<T*>(p.output) + offset;
  const Activation act = p.activation;
  t.low = -kInfinity, t.high = kInfinity;
  if constexpr (!kWidens<T>) {
    const bool clamps = act != Activation::kSiLU && act != Activation::kHardswish;
    if (clamps && act != Activation::kNone) t.low = 0;
    if (act == Activation::kReLU6) t.high = 6;
    t.c = output, t.c_row = row;
    t.residual = residual, t.residual_row = row;
    t.streams = clamps && streams<T>(p, row);
    gemm_tile(t);
    if (clamps) return;
    return dispatch_activation(act, [&](auto op) {
      finish<T, decltype(op)>(output, row, t.rows, t.columns, nullptr, output, row);
    });
  }
  GemmTile<S> part = t;
  part.c = scratch, part.c_row = kTileColumns<S>;
  for (int64_t first = 0; first < t.rows; first += kScratchRows) {
    part.rows = min_of(kScratchRows, t.rows - first);
    part.a = t.a + first * t.a_row;
    if (t.bias != nullptr && t.bias_is_per_row) part.bias = t.bias + first;
    gemm_tile(part);
    const T* added = residual ? residual + first * row : nullptr;
    dispatch_activation(act, [&](auto op) {
      finish<T, decltype(op)>(scratch, part.c_row, part.rows, part.columns, added,
                              output + first * row, row);
    });
  }
}

// Copies the pixels of a group together; `to` takes padded(in_channels) elements a row.
template <class T>
void gather_pixels(const PointwiseConv2dParams& p, Range rows, accumulate_t<T>* to) {
  const int64_t stride = padded<accumulate_t<T>>(p.in_channels);
  for (int64_t i = 0; i < rows.count; ++i) {
    const int64_t row = (rows.first + i) / p.width, w = (rows.first + i) % p.width;
    const int64_t n = row / p.height, h = row % p.height;
    const int64_t pixel = (n * p.in_height + h * p.stride_h) * p.in_width + w * p.stride_w;
    stage_row(static_cast<const T*>(p.input) + pixel * p.in_channels, to + i * stride,
              p.in_channels);
  }
}

template <class T>
void run_nhwc(const PointwiseConv2dParams& p, const accumulate_t<T>* prepared,
              accumulate_t<T>* scratch, int64_t begin, int64_t end) {
  using S = accumulate_t<T>;
  const Grid grid = grid_nhwc<T>(p);
  const bool packed = must_prepare<T>(p), gathers = kWidens<T> || is_subsampled(p);
  const S* bias = bias_of<T>(p, prepared);
  S* pixels = scratch + kScratchRows * kTileColumns<S>;
  GemmTile<S> t{};
  t.depth = p.in_channels, t.a_depth = 1;
  int64_t gathered = -1;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t group = unit / grid.panels;
    const Range rows = grid.group(group);
    const Range panel = panel_at<S>(unit % grid.panels, p.out_channels);
    if (gathers) {
      if (group != gathered) gather_pixels<T>(p, rows, pixels);
      gathered = group;
      t.a = pixels, t.a_row = padded<S>(p.in_channels);
    } else {
      t.a = static_cast<const S*>(p.input) + rows.first * p.in_channels, t.a_row = p.in_channels;
    }
    if (packed) {
      t.b = prepared + panel.first * p.in_channels, t.b_row = padded<S>(panel.count);
    } else {
      t.b = static_cast<const S*>(p.weight) + panel.first, t.b_row = p.weight_in_stride;
    }
    t.bias = bias ? bias + panel.first : nullptr;
    t.rows = rows.count, t.columns = panel.count;
    run_panel<T>(p, t, rows.first * p.out_channels + panel.first, p.out_channels, scratch);
  }
}

// Copies the pixels of a panel together, channel by channel; `to` takes kTileColumns a channel.
template <class T>
void gather_plane(const PointwiseConv2dParams& p, const T* planes, Range pixels,
                  accumulate_t<T>* to) {
  using S = accumulate_t<T>;
  const int64_t plane = p.in_height * p.in_width;
  if (!is_subsampled(p)) {
    return stage(planes + pixels.first, plane, 1, to, kTileColumns<S>, p.in_channels, pixels.count);
  }
  for (int64_t i = 0; i < pixels.count; ++i) {
    const int64_t h = (pixels.first + i) / p.width, w = (pixels.first + i) % p.width;
    const T* from = planes + h * p.stride_h * p.in_width + w * p.stride_w;
    for (int64_t c = 0; c < p.in_channels; ++c)
      to[c * kTileColumns<S> + i] = widen(from[c * plane]);
  }
}

template <class T>
void run_nchw(const PointwiseConv2dParams& p, const accumulate_t<T>* prepared,
              accumulate_t<T>* scratch, int64_t begin, int64_t end) {
  using S = accumulate_t<T>;
  const int64_t in_plane = p.in_height * p.in_width, plane = p.height * p.width;
  const int64_t panels = panel_count<S>(plane), groups = groups_nchw<T>(p);
  const bool gathers = kWidens<T> || is_subsampled(p) || p.out_channels >= kRowsWorthStaging;
  const bool packed = must_prepare<T>(p);
  const S* weight = packed ? prepared : static_cast<const S*>(p.weight);
  const S* bias = bias_of<T>(p, prepared);
  GemmTile<S> t{};
  t.depth = p.in_channels, t.bias_is_per_row = true;
  t.a_row = packed ? p.in_channels : p.weight_out_stride;
  t.a_depth = packed ? 1 : p.weight_in_stride;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / (panels * groups), panel = unit / groups % panels;
    const Range rows = part_of(p.out_channels, groups, unit % groups);
    const Range pixels = panel_at<S>(panel, plane);
    const T* planes = static_cast<const T*>(p.input) + n * p.in_channels * in_plane;
    if (gathers) {
      S* gathered = scratch + kScratchRows * kTileColumns<S>;
      t.b = gathered, t.b_row = kTileColumns<S>;
      gather_plane(p, planes, pixels, gathered);
    } else {
      t.b = reinterpret_cast<const S*>(planes) + pixels.first, t.b_row = in_plane;
    }
    t.a = weight + rows.first * t.a_row;
    t.bias = bias ? bias + rows.first : nullptr;
    t.rows = rows.count, t.columns = pixels.count;
    const int64_t offset = (n * p.out_channels + rows.first) * plane + pixels.first;
    run_panel<T>(p, t, offset, plane, scratch);
  }
}

PointwiseConv2dPlan plan(const PointwiseConv2dParams& p) {
  PointwiseConv2dPlan result{};
  dispatch_dtype(p.dtype, [&](auto element) { result = plan_as<decltype(element)>(p); });
  return result;
}

void prepare(const PointwiseConv2dParams& p, void* prepared, int64_t begin, int64_t end) {
  dispatch_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    prepare_as<T>(p, static_cast<accumulate_t<T>*>(prepared), begin, end);
  });
}

void run(const PointwiseConv2dParams& p, const void* prepared, void* scratch, int64_t begin,
         int64_t end) {
  dispatch_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    using S = accumulate_t<T>;
    const auto run_layout = p.layout == Layout::kNHWC ? run_nhwc<T> : run_nchw<T>;
    run_layout(p, static_cast<const S*>(prepared), static_cast<S*>(scratch), begin, end);
  });
  stream_fence();
}

}  // namespace

const PointwiseConv2dKernels pointwise_conv2d_kernels = {plan, prepare, run};

}  // namespace fastconv::FASTCONV_ISA
