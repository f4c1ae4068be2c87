// The projection of a fused block.
#include "inverted_residual_project.h"

#include "../pointwise_panels.h"
#include "inverted_residual_pairs.h"
#include "inverted_residual_tiles.h"
#include "streaming.h"

namespace fastconv::FASTCONV_ISA {
namespace {

// All but where the product reads and writes.
GemmTile<float> product(const InvertedResidualParams& p, const Projection& from, const Target& to) {
  constexpr float kInfinity = __builtin_inff();
  const Activation act = to.is_output ? p.project_activation : Activation::kNone;
  const bool clamps = is_clamp(act);
  const int64_t hidden = to.panels.first * hidden_panel_of(p);
  GemmTile<float> t{};
  t.a_row = hidden_panel_of(p), t.a_depth = 1;
  t.depth = min_of(to.panels.count * hidden_panel_of(p), p.hidden - hidden);
  t.depth_block = hidden_panel_of(p), t.a_block = from.panel;
  t.c_row = t.residual_row = p.out_channels;
  t.low = clamps && act != Activation::kNone ? 0 : -kInfinity;
  t.high = act == Activation::kReLU6 ? 6 : kInfinity;
  t.streams =
      to.is_output && clamps && wants_stream<float>(p.output, p.batch * p.pixels(), p.out_channels);
  return t;
}

void finish(const InvertedResidualParams& p, const GemmTile<float>& t) {
  if (is_clamp(p.project_activation)) return;
  for (int64_t row = 0; row < t.rows; ++row) {
    activate_in_place(p.project_activation, t.c + row * t.c_row, t.columns);
  }
}

}  // namespace

void project(const InvertedResidualParams& p, const Projection& from) {
  const Target to = output_target(p, from.first);
  if (from.pairs == nullptr) return project_to(p, from, to, 0, projection_panels(p, from.count));
  GemmTile<float> t = product(p, from, to);
  t.a = from.hidden, t.b = from.pairs, t.c = to.out;
  t.bias = to.bias, t.residual = to.residual;
  t.rows = from.count, t.columns = p.out_channels;
  pairs_tile(t);
  finish(p, t);
}

void project_to(const InvertedResidualParams& p, const Projection& from, const Target& to,
                int64_t begin, int64_t end) {
  const int64_t hidden = to.panels.first * hidden_panel_of(p);
  GemmTile<float> t = product(p, from, to);
  const auto weights = [&](int64_t column) {
    return columns_at(p.project_weight, p.project_row, hidden, p.hidden, column, p.out_channels);
  };
  t.a = from.hidden, t.rows = from.count;
  for (int64_t panel = begin; panel < end; ++panel) {
    const Range columns = projection_panel(p, from.count, panel);
    const WeightColumns w = weights(columns.first);
    t.b = w.first, t.b_row = w.row;
    t.next_b = t.next_end = nullptr;
    if (panel + 1 < end) {
      const Range beside = projection_panel(p, from.count, panel + 1);
      const WeightColumns next = weights(beside.first);
      t.next_b = next.first;
      if (beside.count == next.row) t.next_end = next.first + t.depth * next.row;
    }
    t.bias = to.bias ? to.bias + columns.first : nullptr;
    t.residual = to.residual ? to.residual + columns.first : nullptr;
    t.c = to.out + columns.first;
    t.columns = columns.count;
    wide_tile(t, vector_places(columns.first, columns.count,
                               [&](int64_t column) { return weights(column).first; }));
    if (to.is_output) finish(p, t);
  }
}

}  // namespace fastconv::FASTCONV_ISA
