// Inverted residual and separable blocks in bfloat16: the walk over strips and panels, and the
// projection; inverted_residual.cpp says why it is cut so.
#include "inverted_residual_bfloat16_hidden.h"

#include "gemm_bfloat16.h"
#include "inverted_residual_half.h"
#include "registry.h"
#include "stage_pairs.h"
#include "streaming.h"

namespace fastconv::FASTCONV_ISA {
namespace {

using Params = InvertedResidualBfloat16Params;

// As in inverted_residual.cpp, in bytes.
constexpr int64_t kFetchedBytes = 2 << 20;
constexpr int64_t kWeightBytesInCache = 256 << 10;

// Of hidden channels between the rings and the projection. MobileNetV2's blocks, thousands of clock
// ticks: 32 KiB 3761, 96 3751, 160 3715, 256 3715, 512 3753 (one core of an Intel Xeon with AMX).
constexpr int64_t kBandBytes = 256 << 10;

// Pixels of one image from panels into the output.
struct Projection {
  const bfloat16* hidden;  // [panel][pixel][kHiddenPanel]
  int64_t panel;           // elements from a panel to the next
  int64_t first, count;    // pixels, over all images
  // What is read next, fetched ahead while the tiles run.
  const char* ahead;
  int64_t ahead_bytes;
};

FASTCONV_INLINE int64_t projection_tiles(const InvertedResidualShape& s, int64_t pixels) {
  return row_groups(pixels) * pair_panel_count(s.out_channels);
}

// Tiles [begin, end) of projection_tiles.
void project(Tiles& matrix, const Params& p, const Projection& from, int64_t begin, int64_t end) {
  PairTile<bfloat16> t{};
  t.a_row = kHiddenPanel, t.a_pair = 2, t.pairs = div_up<int64_t>(p.hidden, 2);
  t.block_pairs = kHiddenPanel / 2, t.a_block = from.panel;
  t.b_row = 2 * p.project_row, t.c_row = t.residual_row = p.out_channels;
  t.streams = wants_stream<bfloat16>(p.output, p.batch * p.pixels(), p.out_channels);
  set_clamp(t, p.project_activation);
  const int64_t tiles = row_groups(from.count);
  const int64_t panels = pair_panel_count(p.out_channels);
  const bool pixels_outside = p.hidden * p.out_channels * 2 <= kWeightBytesInCache;
  for (int64_t i = begin; i < end; ++i) {
    const Range pixels = part_of(from.count, tiles, pixels_outside ? i / panels : i % tiles);
    const Range columns = pair_panel_at(pixels_outside ? i % panels : i / tiles, p.out_channels);
    const int64_t offset = (from.first + pixels.first) * p.out_channels + columns.first;
    t.a = from.hidden + pixels.first * kHiddenPanel;
    t.b = p.project_weight + 2 * columns.first;
    t.bias = p.project_bias ? p.project_bias + columns.first : nullptr;
    t.residual = p.residual ? p.residual + offset : nullptr;
    t.c = p.output + offset;
    t.rows = pixels.count, t.columns = columns.count;
    const Range lines = part_of(from.ahead_bytes / 64, end - begin, i - begin);
    for (int64_t line = 0; line < lines.count; ++line) {
      prefetch(from.ahead + (lines.first + line) * 64);
    }
    pair_tile(matrix, t, p.project_activation);
  }
}

// What a panel keeps from strip to strip: rows of hidden channels, and the filters of float16.
int64_t ring_elements(const InvertedResidualShape& s, int64_t slots) {
  const int64_t plain = align_floats(slots * s.width * kHiddenPanel);
  if constexpr (kHasTiles) return max_of(s.expands ? plain : 0, slots * half_row(s));
  return s.expands ? plain : 0;
}

int64_t filter_elements(const InvertedResidualShape& s) {
  if constexpr (kHasTiles) return half_filter(s);
  return 0;
}

// A panel of hidden channels.
struct Panel {
  int64_t index, slots, shift;
  bfloat16 *ring, *filter;

  HiddenRing<bfloat16> plain() const { return {ring, slots, shift}; }
  HalfRing half(const Params& p) const {
    return {{reinterpret_cast<float16*>(ring), slots, shift}, kHasTiles ? half_row(p) : 0};
  }
};

void begin_panel(const Params& p, const Panel& panel) {
  if constexpr (kHasTiles) {
    begin_half(p, panel.index, panel.half(p), reinterpret_cast<float16*>(panel.filter));
  }
}

// The rows of span, for which rows [from, to) of the image have yet to be expanded. A panel in
// which float16 will not do is expanded again for float32, over its rows in float16.
void hide_rows(Tiles& matrix, const Params& p, const Panel& panel, const RowSpan& span,
               int64_t from, int64_t to, bfloat16* out) {
  if constexpr (kHasTiles) {
    auto* filter = reinterpret_cast<float16*>(panel.filter);
    const HalfRing ring = panel.half(p);
    const int64_t top = max_of<int64_t>(span.first * p.stride_h - p.pad_top, 0);
    if (fits_half(filter)) {
      if (is_spoilt(filter)) {
        begin_panel(p, panel);
        from = top;
      }
      if (p.expands) expand_half(matrix, p, panel.index, span.image, from, to, ring);
      if (!p.expands) copy_half(p, panel.index, span.image, from, to, ring);
      if (fits_half(p, span, ring)) return depthwise_half(p, span, ring, filter, out);
      if (p.expands) from = top, spoil(filter);
    }
  }
  if (p.expands) expand_rows(matrix, p, panel.index, span.image, from, to, panel.plain());
  depthwise_rows(p, panel.index, span, panel.plain(), out);
}

// Bands of strips: a panel goes over all strips of a band before the next one, so that its ring
// stays in the L1 cache.
struct Bands {
  Strips strip;
  int64_t strips, count;  // of a band, bands an image
  int64_t buffer;         // elements: a panel of a band
};

Bands bands_of(const InvertedResidualShape& s) {
  const Strips g = strips_of(s);
  const int64_t panels = hidden_panels(s);
  const int64_t bytes = panels * g.buffer * int64_t(sizeof(bfloat16));
  int64_t strips = 1;
  if (panels > 1) {
    // The largest of which there is an even number.
    for (int64_t n = 2; n * bytes <= kBandBytes && 2 * n <= g.count; ++n) {
      if (g.count % (2 * n) == 0) strips = n;
    }
  }
  return {g, strips, div_up(g.count, strips), strips * g.buffer};
}

// Bands that follow one another in [begin, end) share their rows of hidden channels.
void run_rows(const Params& p, bfloat16* scratch, int64_t begin, int64_t end) {
  const Bands bands = bands_of(p);
  const Strips& g = bands.strip;
  const int64_t panels = hidden_panels(p), ring = ring_elements(p, g.slots);
  const auto panel_at = [&](int64_t i) {
    return Panel{i, g.slots, g.shift, scratch + i * ring,
                 scratch + panels * (ring + bands.buffer) + i * filter_elements(p)};
  };
  for (int64_t i = 0; i < panels; ++i) begin_panel(p, panel_at(i));
  bfloat16* buffer = scratch + panels * ring;
  const int64_t row = p.width * p.in_channels;
  const bool fetches = p.batch * p.height * row * int64_t(sizeof(bfloat16)) >= kFetchedBytes;
  Tiles matrix;
  int64_t done = 0;  // rows of the image that are expanded already
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t image = unit / bands.count, first = unit % bands.count * bands.strips * g.rows;
    const int64_t rows = min_of(bands.strips * g.rows, p.out_height - first);
    if (unit == begin || first == 0) done = 0;
    const auto end_read = [&](int64_t until) {
      return min_of((until - 1) * p.stride_h - p.pad_top + p.kernel_h, p.height);
    };
    for (int64_t panel = 0; panel < panels; ++panel) {
      int64_t from = max_of(done, first * p.stride_h - p.pad_top);
      bfloat16* out = buffer + panel * bands.buffer;
      for (int64_t r = 0; r < rows; r += g.rows, out += g.buffer) {
        const RowSpan span{image, first + r, min_of(g.rows, rows - r)};
        const int64_t to = end_read(span.first + span.count);
        hide_rows(matrix, p, panel_at(panel), span, from, to, out);
        from = max_of(from, to);
      }
    }
    const int64_t to = end_read(first + rows), pixels = rows * p.out_width;
    done = max_of(done, to);
    const bfloat16* ahead = p.input + (image * p.height + to) * row;
    const int64_t fetched = fetches ? rows * p.stride_h * row * int64_t(sizeof(bfloat16)) : 0;
    const Projection band{buffer,
                          bands.buffer,
                          image * p.pixels() + first * p.out_width,
                          pixels,
                          reinterpret_cast<const char*>(ahead),
                          fetched};
    project(matrix, p, band, 0, projection_tiles(p, pixels));
  }
}

InvertedResidualBfloat16Plan plan(const InvertedResidualShape& s) {
  InvertedResidualBfloat16Plan plan{};
  const int64_t panels = hidden_panels(s);
  if (inverted_residual_by_channels(s)) {
    plan.hide_units = s.batch * panels;
    plan.hidden_bytes = plan.hide_units * s.pixels() * kHiddenPanel * sizeof(bfloat16);
    plan.scratch_bytes = (ring_elements(s, s.height) + filter_elements(s)) * sizeof(bfloat16);
    plan.units = s.batch * projection_tiles(s, s.pixels());
  } else {
    const Bands bands = bands_of(s);
    plan.units = s.batch * bands.count;
    plan.unit_rows = bands.strips * bands.strip.rows;
    plan.scratch_bytes = panels *
                         (ring_elements(s, bands.strip.slots) + bands.buffer + filter_elements(s)) *
                         int64_t(sizeof(bfloat16));
  }
  return plan;
}

void hide(const Params& p, bfloat16* hidden, bfloat16* scratch, int64_t begin, int64_t end) {
  Tiles matrix;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t image = unit / hidden_panels(p), panel = unit % hidden_panels(p);
    const Panel whole{panel, p.height, 0, scratch, scratch + ring_elements(p, p.height)};
    begin_panel(p, whole);
    hide_rows(matrix, p, whole, {image, 0, p.out_height}, 0, p.height,
              hidden + unit * p.pixels() * kHiddenPanel);
  }
}

void run(const Params& p, const bfloat16* hidden, bfloat16* scratch, int64_t begin, int64_t end) {
  if (!inverted_residual_by_channels(p)) {
    run_rows(p, scratch, begin, end);
    return stream_fence();
  }
  const int64_t panel = p.pixels() * kHiddenPanel, tiles = projection_tiles(p, p.pixels());
  Tiles matrix;
  while (begin < end) {
    const int64_t image = begin / tiles, until = min_of(end, (image + 1) * tiles);
    const bfloat16* of_image = hidden + image * hidden_panels(p) * panel;
    project(matrix, p, {of_image, panel, image * p.pixels(), p.pixels(), nullptr, 0},
            begin - image * tiles, until - image * tiles);
    begin = until;
  }
}

void pack(const bfloat16* weight, int64_t out_channels, int64_t in_channels, int64_t out_stride,
          int64_t in_stride, uint32_t* packed) {
  stage_pairs(weight, in_stride, out_stride, packed, out_channels, in_channels, out_channels);
}

void widen(const bfloat16* from, int64_t rows, int64_t columns, int64_t row_stride,
           int64_t column_stride, float* wide) {
  stage(from, row_stride, column_stride, wide, columns, rows, columns);
}

}  // namespace

const InvertedResidualBfloat16Kernels inverted_residual_bfloat16_kernels = {pack, widen, plan, hide,
                                                                            run};

}  // namespace fastconv::FASTCONV_ISA
