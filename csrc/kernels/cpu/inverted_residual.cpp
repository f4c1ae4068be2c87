// Inverted residual and separable blocks on the CPU: the walk over strips and panels, and the
// projection.
#include "../inverted_residual.h"

#include "gemm.h"
#include "inverted_residual_hidden.h"
#include "registry.h"
#include "stage.h"

namespace fastconv::FASTCONV_ISA {
namespace {

// An input larger than the L2 cache is fetched a strip ahead, which the strided walk of the
// depthwise tile does not provoke. Batch 8, one core of a Zen 5: separable 32 -> 64, 112x112: 1.22
// times as fast, 128 -> 128, 56x56: 1.29, inverted 144 -> 24, 56x56: 1.05; 1 to 4 % slower where
// the input is in the caches.
constexpr int64_t kFetchedBytes = 2 << 20;
// An output beyond half the shared cache is written past it, as pointwise_conv2d does: separable
// 32 -> 64, 112x112, batch 16: 8.2 to 5.3 ms; 128 -> 128, 56x56: 10.5 to 9.1 ms (one core). From
// 4 MiB on it gained 8 to 15 % more, at the cost of the reader that then finds it in no cache.
constexpr int64_t kStreamedBytes = 16 << 20;
// Weights of the projection that stay in the L2 cache are passed over for each tile of pixels.
constexpr int64_t kWeightBytesInCache = 256 << 10;

// Pixels of one image from panels into the output: tiles [begin, end) of the grid below.
struct Projection {
  const float* hidden;   // [panel][pixel][kHiddenPanel]
  int64_t panel;         // elements from a panel to the next
  int64_t first, count;  // pixels, over all images
  // What is read next, fetched ahead while the tiles run.
  const char* ahead;
  int64_t ahead_bytes;
};

FASTCONV_INLINE int64_t projection_tiles(const InvertedResidualShape& s, int64_t pixels) {
  return row_tile_count(pixels) * panel_count<float>(s.out_channels);
}

FASTCONV_INLINE bool streams(const InvertedResidualParams& p) {
  constexpr uint64_t kVectorBytes = kLanes<float> * sizeof(float);
  return p.batch * p.pixels() * p.out_channels * int64_t(sizeof(float)) >= kStreamedBytes &&
         p.out_channels % kLanes<float> == 0 &&
         reinterpret_cast<uintptr_t>(p.output) % kVectorBytes == 0;
}

void project(const InvertedResidualParams& p, const Projection& from, int64_t begin, int64_t end) {
  constexpr float kInfinity = __builtin_inff();
  const Activation act = p.project_activation;
  const bool clamps = is_clamp(act);
  GemmTile<float> t{};
  t.a_row = kHiddenPanel, t.a_depth = 1, t.depth = p.hidden;
  t.depth_block = kHiddenPanel, t.a_block = from.panel;
  t.b_row = p.project_row, t.c_row = t.residual_row = p.out_channels;
  t.low = clamps && act != Activation::kNone ? 0 : -kInfinity;
  t.high = act == Activation::kReLU6 ? 6 : kInfinity;
  t.streams = clamps && streams(p);
  const int64_t tiles = row_tile_count(from.count);
  const int64_t panels = panel_count<float>(p.out_channels);
  const bool pixels_outside = p.hidden * p.out_channels * 4 <= kWeightBytesInCache;
  for (int64_t i = begin; i < end; ++i) {
    const Range pixels = part_of(from.count, tiles, pixels_outside ? i / panels : i % tiles);
    const Range columns = panel_at<float>(pixels_outside ? i % panels : i / tiles, p.out_channels);
    const int64_t offset = (from.first + pixels.first) * p.out_channels + columns.first;
    t.a = from.hidden + pixels.first * kHiddenPanel;
    t.b = p.project_weight + columns.first;
    t.bias = p.project_bias ? p.project_bias + columns.first : nullptr;
    t.residual = p.residual ? p.residual + offset : nullptr;
    t.c = p.output + offset;
    t.rows = pixels.count, t.columns = columns.count;
    const Range lines = part_of(from.ahead_bytes / 64, end - begin, i - begin);
    for (int64_t line = 0; line < lines.count; ++line) {
      prefetch(from.ahead + (lines.first + line) * 64);
    }
    gemm_tile(t);
    if (clamps) continue;
    for (int64_t row = 0; row < t.rows; ++row) {
      activate_in_place(act, t.c + row * t.c_row, t.columns);
    }
  }
}

// Strips that follow one another in [begin, end) share their rows of hidden channels.
void run_rows(const InvertedResidualParams& p, float* scratch, int64_t begin, int64_t end) {
  const Strips g = strips_of(p);
  const int64_t panels = hidden_panels(p);
  float* buffer = scratch + panels * g.ring;
  const int64_t input_bytes = p.batch * p.height * p.width * p.in_channels * sizeof(float);
  const bool fetches = input_bytes >= kFetchedBytes;
  int64_t done = 0;  // rows of the image that are expanded already
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t image = unit / g.count, first = unit % g.count * g.rows;
    const RowSpan span{image, first, min_of(g.rows, p.out_height - first)};
    const int64_t top = first * p.stride_h - p.pad_top;
    const int64_t bottom = top + (span.count - 1) * p.stride_h + p.kernel_h;
    if (unit == begin || first == 0) done = 0;
    const int64_t from = max_of(done, top), to = min_of(bottom, p.height);
    for (int64_t panel = 0; panel < panels; ++panel) {
      const HiddenRing ring{scratch + panel * g.ring, g.slots, g.shift};
      if (p.expands) expand_rows(p, panel, image, from, to, ring);
      depthwise_rows(p, panel, span, ring, buffer + panel * g.buffer);
    }
    done = max_of(done, to);
    const int64_t pixels = span.count * p.out_width;
    const int64_t fresh = fetches ? g.rows * p.stride_h * p.width * p.in_channels : 0;
    const float* ahead = p.input + (image * p.height + to) * p.width * p.in_channels;
    const Projection from_strip{buffer,
                                g.buffer,
                                image * p.pixels() + first * p.out_width,
                                pixels,
                                reinterpret_cast<const char*>(ahead),
                                fresh * int64_t(sizeof(float))};
    project(p, from_strip, 0, projection_tiles(p, pixels));
  }
}

InvertedResidualPlan plan(const InvertedResidualShape& s) {
  InvertedResidualPlan plan{};
  const int64_t panels = hidden_panels(s);
  if (inverted_residual_by_channels(s)) {
    plan.hide_units = s.batch * panels;
    plan.hidden_bytes = plan.hide_units * s.pixels() * kHiddenPanel * sizeof(float);
    plan.scratch_bytes = s.expands ? s.height * s.width * kHiddenPanel * sizeof(float) : 0;
    plan.units = s.batch * projection_tiles(s, s.pixels());
  } else {
    const Strips g = strips_of(s);
    plan.units = s.batch * g.count;
    plan.scratch_bytes = panels * (g.ring + g.buffer) * sizeof(float);
  }
  return plan;
}

void hide(const InvertedResidualParams& p, float* hidden, float* scratch, int64_t begin,
          int64_t end) {
  const HiddenRing whole{scratch, p.height, 0};
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t image = unit / hidden_panels(p), panel = unit % hidden_panels(p);
    if (p.expands) expand_rows(p, panel, image, 0, p.height, whole);
    depthwise_rows(p, panel, {image, 0, p.out_height}, whole,
                   hidden + unit * p.pixels() * kHiddenPanel);
  }
}

void run(const InvertedResidualParams& p, const float* hidden, float* scratch, int64_t begin,
         int64_t end) {
  if (!inverted_residual_by_channels(p)) {
    run_rows(p, scratch, begin, end);
    return stream_fence();
  }
  const int64_t panel = p.pixels() * kHiddenPanel, tiles = projection_tiles(p, p.pixels());
  while (begin < end) {
    const int64_t image = begin / tiles, until = min_of(end, (image + 1) * tiles);
    const float* of_image = hidden + image * hidden_panels(p) * panel;
    project(p, {of_image, panel, image * p.pixels(), p.pixels(), nullptr, 0}, begin - image * tiles,
            until - image * tiles);
    begin = until;
  }
}

void pack(const InvertedResidualPackParams& p) {
  stage(p.weight, p.in_stride, p.out_stride, p.packed, p.out_channels, p.in_channels,
        p.out_channels);
}

}  // namespace

const InvertedResidualKernels inverted_residual_kernels = {pack, plan, hide, run};

}  // namespace fastconv::FASTCONV_ISA
