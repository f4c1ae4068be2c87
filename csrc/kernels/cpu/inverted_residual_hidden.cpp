// Expand and depthwise of a panel of hidden channels, in L1.
#include "inverted_residual_hidden.h"

#include "../pointwise_panels.h"
#include "inverted_residual_depthwise.h"
#include "inverted_residual_tiles.h"
#include "registry.h"

namespace fastconv::FASTCONV_ISA {
namespace {

// Rows [from, to) of the image into the ring.
void expand_rows(const InvertedResidualParams& p, int64_t panel, int64_t image, int64_t from,
                 int64_t to, const HiddenRing<float>& ring) {
  constexpr float kInfinity = __builtin_inff();
  const bool clamps = is_clamp(p.activation);
  GemmTile<float> t{};
  t.a_row = p.in_channels, t.a_depth = 1, t.depth = p.in_channels;
  const int64_t width = hidden_panel_of(p), first = panel * width;
  const auto weights = [&](int64_t column) {
    return columns_at(p.expand_weight, p.expand_row, 0, p.in_channels, column, p.hidden);
  };
  t.columns = min_of(width, p.hidden - first);
  t.b = weights(first).first, t.b_row = weights(first).row;
  const VectorPlaces places =
      vector_places(first, t.columns, [&](int64_t column) { return weights(column).first; });
  if (panel + 1 < hidden_panels(p)) t.next_b = weights(first + width).first;
  t.bias = p.expand_bias ? p.expand_bias + first : nullptr;
  t.c_row = width;
  t.low = clamps && p.activation != Activation::kNone ? 0 : -kInfinity;
  t.high = p.activation == Activation::kReLU6 ? 6 : kInfinity;
  while (from < to) {
    const int64_t slot = ring.slot(from), rows = min_of(to - from, ring.slots - slot);
    const int64_t pixels = rows * p.width;
    float* hidden = ring.rows + slot * p.width * width;
    t.a = p.input + (image * p.height + from) * p.width * p.in_channels;
    t.c = hidden;
    t.rows = pixels;
    wide_tile(t, places);
    if (!clamps) activate_in_place(p.activation, hidden, pixels * width);
    from += rows;
  }
}

constexpr int64_t kLine = 64;

// An input larger than the L2 cache is fetched a strip ahead, which the strided walk of the
// depthwise tile does not provoke. Batch 8, one core of a Zen 5: separable 32 -> 64, 112x112: 1.22
// times as fast, 128 -> 128, 56x56: 1.29, inverted 144 -> 24, 56x56: 1.05; 1 to 4 % slower where
// the input is in the caches.
constexpr int64_t kFetchedBytes = 2 << 20;

FASTCONV_INLINE bool fetches_ahead(const InvertedResidualShape& s) {
  return s.batch * s.height * s.width * s.in_channels * int64_t(sizeof(float)) >= kFetchedBytes;
}

}  // namespace

void hide_strip(const InvertedResidualParams& p, const Strips& g, const RowSpan& span, int64_t done,
                int64_t begin, int64_t end, float* rings, const HiddenOutput& out) {
  const int64_t from = max_of(done, span.first * p.stride_h - p.pad_top);
  const int64_t to = rows_read(p, span), row = p.width * p.in_channels * sizeof(float);
  const char* next = reinterpret_cast<const char*>(p.input) + (span.image * p.height + to) * row;
  const int64_t lines = fetches_ahead(p) ? g.rows * p.stride_h * row / kLine : 0;
  for (int64_t panel = begin; panel < end; ++panel) {
    const HiddenRing<float> ring{rings + (panel - begin) * g.ring, g.slots, g.shift};
    if (p.expands) expand_rows(p, panel, span.image, from, to, ring);
    const Range part = part_of(lines, end - begin, panel - begin);
    for (int64_t i = 0; i < part.count; ++i) prefetch(next + (part.first + i) * kLine);
    float* sums = out.sums ? out.sums + panel * hidden_panel_of(p) : nullptr;
    depthwise_rows(p, panel, span, ring, out.pixels + panel * out.panel, sums);
  }
}

}  // namespace fastconv::FASTCONV_ISA
