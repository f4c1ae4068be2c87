// Dense convolution on the CPU: windows by packed weights in the register tiles of a matrix
// product.
#include "dense_conv2d_staged.h"
#include "gemm.h"
#include "registry.h"
#include "streaming.h"

namespace fastconv::FASTCONV_ISA {
namespace {

// Elements of the prepared weights; a bias to be widened lies behind them.
FASTCONV_INLINE int64_t prepared_weights(const DenseConv2dParams& p) {
  return dense_panels(p) * p.panel * p.kernel_h * p.kernel_w * p.channels;
}

// Whether tiles can write the output, all sums made.
template <class T>
FASTCONV_INLINE bool is_direct(const DenseConv2dParams& p) {
  return !kWidens<T> && p.activation != Activation::kSiLU && p.activation != Activation::kHardswish;
}

template <class T>
DenseConv2dPlan plan_as(const DenseConv2dParams& p) {
  using S = accumulate_t<T>;
  const Grid<S> grid(p);
  DenseConv2dPlan plan{};
  if (dense_must_pack(p)) {
    plan.prepare_units = grid.panels;
    plan.prepared_bytes = (prepared_weights(p) + (kWidens<T> ? p.out_channels : 0)) * sizeof(S);
  }
  plan.units = grid.groups * grid.panels;
  const bool sums = grid.by_taps || !is_direct<T>(p);
  const int64_t pixels = grid.images * grid.band * p.out_width;
  plan.scratch_bytes =
      (grid.images * grid.image + (sums ? grid.panels * p.panel * pixels : 0)) * sizeof(S);
  return plan;
}

template <class T>
void prepare_as(const DenseConv2dParams& p, accumulate_t<T>* prepared, int64_t begin, int64_t end) {
  const int64_t depth = p.kernel_h * p.kernel_w * p.channels;
  const T* weight = static_cast<const T*>(p.weight);
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t first = panel * p.panel;
    accumulate_t<T>* to = prepared + first * depth;
    if (p.weight_is_packed) {
      stage_row(weight + first * depth, to, depth * p.panel);
      continue;
    }
    const int64_t columns = min_of(p.panel, p.out_channels - first);
    for (int64_t h = 0; h < p.kernel_h; ++h) {
      for (int64_t w = 0; w < p.kernel_w; ++w, to += p.channels * p.panel) {
        stage(weight + first * p.weight_out_stride + h * p.weight_row_stride +
                  w * p.weight_column_stride,
              p.weight_in_stride, p.weight_out_stride, to, p.panel, p.channels, columns);
      }
    }
  }
  if (kWidens<T> && begin == 0 && p.bias != nullptr) {
    stage_row(static_cast<const T*>(p.bias), prepared + prepared_weights(p), p.out_channels);
  }
}

// A panel of the product: packed weights, cut as the vectors are.
template <class S>
void multiply(GemmTile<S> t, int64_t columns) {
  const GemmTile<S> whole = t;
  for (int64_t i = 0; i < panel_count<S>(columns); ++i) {
    const Range part = panel_at<S>(i, columns);
    t.columns = part.count;
    t.b = whole.b + part.first, t.c = whole.c + part.first;
    if (whole.bias != nullptr) t.bias = whole.bias + part.first;
    if (whole.residual != nullptr) t.residual = whole.residual + part.first;
    gemm_tile(t);
  }
}

template <class T>
struct Group {
  using S = accumulate_t<T>;
  const DenseConv2dParams& p;
  const Grid<S>& grid;
  const S *weights, *bias;
  S *staged,
      *sums;  // sums: (panels, pixels, columns of a panel), what tiles cannot yet write or never
              // can
  bool streams;
  int64_t first_image, images, first_row, rows;

  int64_t pixels() const { return rows * p.out_width; }
  int64_t first_pixel(int64_t image) const {
    return ((first_image + image) * p.out_height + first_row) * p.out_width;
  }
  const S* tap_of(int64_t panel, int64_t h, int64_t w) const {
    return weights + ((panel * p.kernel_h + h) * p.kernel_w + w) * p.channels * p.panel;
  }
  S* sums_of(int64_t panel, int64_t image) const {
    return sums + (panel * images + image) * pixels() * p.panel;
  }
  int64_t columns_of(int64_t panel) const {
    return min_of(p.panel, p.out_channels - panel * p.panel);
  }

  // after: the input of the next group, or nothing.
  void run(Range panels, Span<S> after) {
    const int64_t end = panels.first + panels.count, columns = grid.by_taps ? p.kernel_w : 1;
    for (int64_t w = 0; w < columns; ++w) {
      for (int64_t i = 0; i < images; ++i) {
        stage_image<T>(p, grid, first_image + i, first_row, rows, w, staged + i * grid.image);
      }
      for (int64_t panel = panels.first; panel < end; ++panel) {
        const int64_t depth = p.channels * (grid.by_taps ? 1 : p.kernel_h * p.kernel_w);
        Span<S> next = after;
        if (panel + 1 < end) {
          next = {tap_of(panel + 1, 0, w), depth * p.panel};
        } else if (w + 1 < columns) {
          next = {tap_of(panels.first, 0, w + 1), depth * p.panel};
        }
        grid.by_taps ? run_taps(panel, w, next) : run_rows(panel, next);
      }
    }
    if (!is_direct<T>(p)) finish(panels);
  }

  // The output, bias and residual of a panel's columns.
  GemmTile<S> tile(int64_t panel, int64_t image) const {
    constexpr S kInfinity = __builtin_inf();
    const int64_t first = panel * p.panel;
    GemmTile<S> t{};
    t.a_depth = 1, t.b_row = p.panel;
    t.low = -kInfinity, t.high = kInfinity;
    if (bias != nullptr) t.bias = bias + first;
    if constexpr (!kWidens<T>) {
      if (!is_direct<T>(p)) return t;
      const int64_t at = first_pixel(image) * p.out_channels + first;
      t.c = static_cast<T*>(p.output) + at, t.c_row = t.residual_row = p.out_channels;
      if (p.residual != nullptr) t.residual = static_cast<const T*>(p.residual) + at;
      if (p.activation != Activation::kNone) t.low = 0;
      if (p.activation == Activation::kReLU6) t.high = 6;
    }
    return t;
  }

  static void fetch(GemmTile<S>& t, Span<S> next) {
    if (next.first != nullptr) t.next_b = next.first, t.next_end = next.first + next.count;
  }

  void run_rows(int64_t panel, Span<S> next) const {
    for (int64_t i = 0; i < images; ++i) {
      GemmTile<S> t = tile(panel, i);
      if (!is_direct<T>(p)) t.c = sums_of(panel, i), t.c_row = p.panel;
      t.a = staged + i * grid.image, t.a_row = p.stride_w * grid.pixel;
      t.depth_block = p.kernel_w * p.channels, t.a_block = p.dilation_h * grid.row;
      t.depth = p.kernel_h * t.depth_block;
      t.b = tap_of(panel, 0, 0);
      t.rows = p.out_width, t.streams = streams;
      if (i == 0) fetch(t, next);
      for (int64_t r = 0; r < rows; ++r) {
        multiply(t, columns_of(panel));
        if (t.next_b < t.next_end) t.next_b += fetched_by_tiles(t);
        t.a += p.stride_h * grid.row, t.c += p.out_width * t.c_row;
        if (t.residual != nullptr) t.residual += p.out_width * p.out_channels;
      }
    }
  }

  // Sums of tap after tap: the first with bias and residual, the last clamped into the output.
  void run_taps(int64_t panel, int64_t w, Span<S> next) const {
    constexpr S kInfinity = __builtin_inf();
    for (int64_t h = 0; h < p.kernel_h; ++h) {
      const bool is_first = h == 0 && w == 0;
      const bool is_last = h + 1 == p.kernel_h && w + 1 == p.kernel_w;
      const int64_t below = h * p.dilation_h;
      const int64_t row = below % p.stride_h * grid.phase_rows + below / p.stride_h;
      for (int64_t i = 0; i < images; ++i) {
        GemmTile<S> t = tile(panel, i);
        t.a = staged + i * grid.image + row * grid.row, t.a_row = grid.pixel;
        t.b = tap_of(panel, h, w);
        t.depth = p.channels, t.rows = pixels();
        if (!is_first) {
          t.bias = nullptr, t.residual = sums_of(panel, i), t.residual_row = p.panel;
        }
        if (!is_last || !is_direct<T>(p)) {
          t.c = sums_of(panel, i), t.c_row = p.panel;
          t.low = -kInfinity, t.high = kInfinity;
        }
        if (i == 0 && h + 1 < p.kernel_h) {
          fetch(t, {tap_of(panel, h + 1, w), t.depth * p.panel});
        } else if (i == 0) {
          fetch(t, next);
        }
        multiply(t, columns_of(panel));
      }
    }
  }

  // The sums into the output: residual, activation, and narrowed.
  void finish(Range panels) const {
    for (int64_t panel = panels.first; panel < panels.first + panels.count; ++panel) {
      for (int64_t i = 0; i < images; ++i) finish(panel, i);
    }
  }

  void finish(int64_t panel, int64_t image) const {
    const int64_t columns = columns_of(panel);
    const S* from = sums_of(panel, image);
    dispatch_activation(p.activation, [&](auto op) {
      for (int64_t i = 0; i < pixels(); ++i, from += p.panel) {
        const int64_t at = (first_pixel(image) + i) * p.out_channels + panel * p.panel;
        for (int64_t j = 0; j < columns; j += kLanes<T>) {
          const int64_t lanes = min_of<int64_t>(kLanes<T>, columns - j);
          auto z = load_partial(from + j, lanes);
          if (p.residual != nullptr) {
            z = z + load_partial(static_cast<const T*>(p.residual) + at + j, lanes);
          }
          store_partial(static_cast<T*>(p.output) + at + j, decltype(op)::forward(z), lanes);
        }
      }
    });
  }
};

template <class T>
void run_as(const DenseConv2dParams& p, const accumulate_t<T>* prepared, accumulate_t<T>* scratch,
            int64_t begin, int64_t end) {
  using S = accumulate_t<T>;
  const Grid<S> grid(p);
  const bool packs = dense_must_pack(p);
  const int64_t pixels = p.batch * p.out_height * p.out_width;
  Group<T> group{
      p,
      grid,
      packs ? prepared : static_cast<const S*>(p.weight),
      nullptr,
      scratch,
      scratch + grid.images * grid.image,
      is_direct<T>(p) && !grid.by_taps && wants_stream<T>(p.output, pixels, p.out_channels),
      0,
      0,
      0,
      0};
  if (p.bias != nullptr) {
    group.bias = kWidens<T> ? prepared + prepared_weights(p) : static_cast<const S*>(p.bias);
  }
  while (begin < end) {
    const int64_t index = begin / grid.panels, first = begin % grid.panels;
    const Range panels{first, min_of(grid.panels - first, end - begin)};
    const Range rows = part_of(p.out_height, grid.bands, index % grid.bands);
    group.first_row = rows.first, group.rows = rows.count;
    const Range images = part_of(p.batch, grid.parts, index / grid.bands);
    group.first_image = images.first, group.images = images.count;
    begin += panels.count;
    group.run(panels, begin < end ? input_of<T>(p, grid, index + 1) : Span<S>{});
  }
}

DenseConv2dPlan plan(const DenseConv2dParams& p) {
  DenseConv2dPlan result{};
  dispatch_dtype(p.dtype, [&](auto element) { result = plan_as<decltype(element)>(p); });
  return result;
}

void prepare(const DenseConv2dParams& p, void* prepared, int64_t begin, int64_t end) {
  dispatch_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    prepare_as<T>(p, static_cast<accumulate_t<T>*>(prepared), begin, end);
  });
}

void run(const DenseConv2dParams& p, const void* prepared, void* scratch, int64_t begin,
         int64_t end) {
  dispatch_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    using S = accumulate_t<T>;
    run_as<T>(p, static_cast<const S*>(prepared), static_cast<S*>(scratch), begin, end);
  });
  stream_fence();
}

}  // namespace

const DenseConv2dKernels dense_conv2d_kernels = {plan, prepare, run};

}  // namespace fastconv::FASTCONV_ISA
