// Pointwise convolution on the CPU: tiles of a matrix product, straight from and to the tensors
// where they are float32 or float64, through scratch where they must be widened or subsampled.
#include "pointwise_conv2d_panel.h"

namespace fastconv::FASTCONV_ISA {
namespace {

// With this many rows of weights to a panel of contiguous pixels, copying the panel together first
// pays, but only where its rows are whole pages apart: 256 -> 64, 32x32: 0.81 of the fma peak, 0.67
// as it lies; 64 -> 64, 128x128: 0.79, 0.53. Elsewhere it costs: 512 -> 128, 28x28: 0.78, 0.94 as
// it lies; 960 -> 160, 7x7: 0.79, 0.83; 256 -> 64, 16x16: 0.85, 0.95 (kernel, one core, Zen 5).
constexpr int64_t kRowsWorthStaging = 40;
// A group of row tiles passes over one panel of the weights after the other: half of all tiles, so
// that two threads have rows of their own, but within these bounds, and as many as stay in the L2
// cache. At most 28, 56, 112 tiles, us: 16 -> 96, 112x112: 79, 76.5, 75.5, batch 16: 1338, 1341,
// 1291; 144 -> 24, 56x56, batch 16: 663, 660, 645; not half, but all 112 tiles of 32 -> 192, 28x28:
// 19.1 to 20.4 (kernel alone, two threads, Zen 5).
constexpr int64_t kLeastGroup = 28, kMostGroup = 112, kGroupBytes = 512 << 10;
// With so few rows a panel of four vectors, whose loads keep the memory busier: weights from L3,
// 1280 x 1000 by one row: 66 to 44 us (one core of a Zen 5).
constexpr int64_t kWideRows = 4;
// Pieces of the work, so that several threads get equal shares of a small one.
constexpr int64_t kUnitsWanted = 16;

template <class S>
FASTCONV_INLINE int64_t padded(int64_t columns) {
  return div_up<int64_t>(columns, kLanes<S>) * kLanes<S>;
}

// The matrix of weights: (in, out) panels for channels_last, (out, in) for contiguous tensors.
template <class T>
FASTCONV_INLINE bool must_prepare(const PointwiseConv2dParams& p) {
  if (kWidens<T>) return true;
  if (weight_is_panels(p)) return false;
  if (p.layout == Layout::kNCHW) return p.weight_in_stride != 1 && p.weight_out_stride != 1;
  return pointwise_conv2d_variant(p) == Variant::pointwise_conv2d_nhwc_packing;
}

// Elements of the prepared weights; a bias to be widened lies behind them.
template <class T>
FASTCONV_INLINE int64_t prepared_weights(const PointwiseConv2dParams& p) {
  const bool nhwc = p.layout == Layout::kNHWC;
  return (nhwc ? padded<accumulate_t<T>>(p.out_channels) : p.out_channels) * p.in_channels;
}

template <class T>
FASTCONV_INLINE PanelGrid grid_nhwc(const PointwiseConv2dParams& p) {
  using S = accumulate_t<T>;
  const int64_t rows = pixels_of(p), tiles = row_tile_count(rows);
  const int64_t tile_bytes = kTileRows * p.in_channels * sizeof(S);
  const int64_t fit = max_of<int64_t>(min_of(kGroupBytes / tile_bytes, kMostGroup), 1);
  const int64_t wanted = max_of(div_up<int64_t>(tiles, 2), kLeastGroup);
  const int64_t group = min_of(min_of(fit, wanted), tiles);
  if (rows <= kWideRows && !must_prepare<T>(p) && !weight_is_panels(p)) {
    const int64_t panels = div_up(p.out_channels, kMostColumns<S>);
    return {rows, tiles, group, panels, panels};
  }
  const int64_t panels = panel_count<S>(p.out_channels);
  const int64_t pairs = panel_pairs<S>(rows, p.out_channels);
  // In a lone group a panel without its pair would leave the second thread half a panel less to do.
  const bool are_equal = 2 * pairs == panels || tiles >= 2 * group;
  return {rows, tiles, group, are_equal ? panels - pairs : panels, are_equal ? pairs : 0};
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
  if (is_dots(p)) {
    plan.units = div_up(p.out_channels, kDotOutputs);
    return plan;
  }
  if (must_prepare<T>(p)) {
    plan.prepare_units = nhwc ? panel_count<S>(p.out_channels) : row_tile_count(p.out_channels);
    plan.prepared_bytes = (prepared_weights<T>(p) + (kWidens<T> ? p.out_channels : 0)) * sizeof(S);
  }
  int64_t staged;  // rows or columns of the input copied together
  if (nhwc) {
    const PanelGrid grid = grid_nhwc<T>(p);
    plan.units = grid.tiles * grid.panels;
    staged = grid.group * kTileRows;
  } else {
    plan.units = p.batch * panel_count<S>(p.height * p.width) * groups_nchw<T>(p);
    staged = kTileColumns<S>;
  }
  plan.scratch_bytes =
      (kScratchRows * kMostColumns<S> + staged * padded<S>(p.in_channels)) * sizeof(S);
  return plan;
}

template <class T>
void prepare_as(const PointwiseConv2dParams& p, accumulate_t<T>* prepared, int64_t begin,
                int64_t end) {
  using S = accumulate_t<T>;
  const int64_t in = p.in_channels, out = p.out_channels;
  const bool nhwc = p.layout == Layout::kNHWC;
  for (int64_t unit = begin; unit < end; ++unit) {
    if (nhwc) {
      const Range panel = panel_at<S>(unit, out);
      const Weights<T> w = weights_at<T>(p, panel.first);
      stage(w.first, w.in_stride, w.out_stride, prepared + panel.first * in, padded<S>(panel.count),
            in, panel.count);
    } else {
      const Range rows = part_of(out, row_tile_count(out), unit);
      for (int64_t row = rows.first, last = row + rows.count; row < last;) {
        const Weights<T> w = weights_at<T>(p, row);
        const int64_t count = min_of(w.count, last - row);
        stage(w.first, w.out_stride, w.in_stride, prepared + row * in, in, count, in);
        row += count;
      }
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

// The last group of [begin, end) is walked from the bottom up: downwards, the processor would fetch
// lines ahead beyond its end, which the next thread has just written. 24 -> 144, 56x56: 46.8
// to 42.2 us; 16 -> 96, 112x112: 84 to 80; 32 -> 192, 28x28: 20.7 to 19.5 (kernel alone, two
// threads, Zen 5). But not a group that ends the work and is one thread's own: it has a neighbour
// at its head.
template <class T>
void run_nhwc(const PointwiseConv2dParams& p, const accumulate_t<T>* prepared,
              accumulate_t<T>* scratch, int64_t begin, int64_t end) {
  using S = accumulate_t<T>;
  const PanelGrid grid = grid_nhwc<T>(p);
  const bool packed = must_prepare<T>(p), gathers = kWidens<T> || is_subsampled(p);
  const S* bias = bias_of<T>(p, prepared);
  S* pixels = scratch + kScratchRows * kMostColumns<S>;
  GemmTile<S> t{};
  t.depth = p.in_channels, t.a_depth = 1;
  Range gathered{};
  for (int64_t unit = begin; unit < end;) {
    const int64_t group = unit / (grid.group * grid.panels) * grid.group;
    const int64_t tiles = min_of(grid.group, grid.tiles - group);
    const int64_t within = unit - group * grid.panels;
    const int64_t tile = group + within % tiles;
    // Tiles of a panel that follow one another are one product.
    const int64_t count = min_of(tiles - within % tiles, end - unit);
    const int64_t first = part_of(grid.rows, grid.tiles, tile).first;
    const Range rows{first, part_of(grid.rows, grid.tiles, tile + count).first - first};
    const Range panel = grid.panel<S>(within / tiles, p.out_channels);
    const int64_t group_begin = group * grid.panels, group_end = group_begin + tiles * grid.panels;
    const bool own_tail = begin <= group_begin && end == grid.tiles * grid.panels;
    const bool upwards = end <= group_end && !own_tail;
    unit += count;
    if (gathers) {
      const bool there = rows.first == gathered.first && rows.count == gathered.count;
      if (!there) gather_pixels<T>(p, rows, pixels);
      gathered = rows;
      t.a = pixels, t.a_row = padded<S>(p.in_channels);
    } else {
      t.a = static_cast<const S*>(p.input) + rows.first * p.in_channels, t.a_row = p.in_channels;
    }
    const auto weights = [&](Range columns) {
      if (!packed) return weights_at<S>(p, columns.first);
      const int64_t n = columns.count, row = n > kTileColumns<S> ? kPanelColumns<S> : padded<S>(n);
      return Weights<S>{prepared + columns.first * p.in_channels, 1, row, n};
    };
    const Weights<S> w = weights(panel);
    t.b = w.first, t.b_row = w.in_stride;
    t.b_half = packed || weight_is_panels(p) ? kPanelColumns<S> * p.in_channels : 0;
    const bool fetches = unit < end && panel.first + panel.count < p.out_channels;
    const Range beside = grid.panel<S>(within / tiles + 1, p.out_channels);
    const Weights<S> next = fetches ? weights(beside) : Weights<S>{};
    const bool whole = fetches && next.in_stride <= kTileColumns<S>;
    t.next_end = whole ? next.first + p.in_channels * padded<S>(beside.count) : nullptr;
    t.bias = bias ? bias + panel.first : nullptr;
    t.rows = rows.count, t.columns = panel.count, t.next_b = next.first;
    int64_t row = rows.first, c_row = p.out_channels;
    if (upwards) {
      row += rows.count - 1, c_row = -c_row;
      t.a += (rows.count - 1) * t.a_row, t.a_row = -t.a_row;
    }
    run_panel<T>(p, t, row * p.out_channels + panel.first, c_row, scratch);
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
  const bool aliased = rows_share_cache_sets(plane, p.dtype);
  const bool stages = aliased && p.out_channels >= kRowsWorthStaging;
  const bool gathers = kWidens<T> || is_subsampled(p) || stages;
  const bool packed = must_prepare<T>(p);
  const S* bias = bias_of<T>(p, prepared);
  GemmTile<S> t{};
  t.depth = p.in_channels, t.bias_is_per_row = true;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / (panels * groups), panel = unit / groups % panels;
    const Range rows = part_of(p.out_channels, groups, unit % groups);
    const Range pixels = panel_at<S>(panel, plane);
    const T* planes = static_cast<const T*>(p.input) + n * p.in_channels * in_plane;
    if (gathers) {
      S* gathered = scratch + kScratchRows * kMostColumns<S>;
      t.b = gathered, t.b_row = kTileColumns<S>;
      gather_plane(p, planes, pixels, gathered);
    } else {
      t.b = reinterpret_cast<const S*>(planes) + pixels.first, t.b_row = in_plane;
    }
    t.columns = pixels.count;
    for (int64_t row = rows.first, last = row + rows.count; row < last; row += t.rows) {
      const Weights<S> w =
          packed ? Weights<S>{prepared + row * p.in_channels, p.in_channels, 1, last - row}
                 : weights_at<S>(p, row);
      t.a = w.first, t.a_row = w.out_stride, t.a_depth = w.in_stride;
      t.bias = bias ? bias + row : nullptr;
      t.rows = min_of(w.count, last - row);
      const int64_t offset = (n * p.out_channels + row) * plane + pixels.first;
      run_panel<T>(p, t, offset, plane, scratch);
    }
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
  if (is_dots(p)) return pointwise_dots(p, begin, end);
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
