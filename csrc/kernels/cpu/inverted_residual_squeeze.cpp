// Blocks with squeeze-and-excitation: hidden channels and their sums in one pass, then the gates,
// then the projection. The sums of a strip are added in the order of the strips, whoever made them.
#include "inverted_residual_squeeze.h"

#include "inverted_residual_hidden.h"
#include "inverted_residual_project.h"

namespace fastconv::FASTCONV_ISA {
namespace {

// Maps up to this size are hidden a panel at a time, which expands no row twice.
constexpr int64_t kPanelPixels = 14 * 14;
// Channels that one unit of the squeeze stage reduces.
constexpr int64_t kReduced = 128;

// What is kept of one image: where each part begins, in floats.
struct Memory {
  int64_t hidden;    // [panel][pixel][kHiddenPanel]
  int64_t sums;      // [strip][panel][kHiddenPanel]
  int64_t partials;  // [unit of squeeze][squeezed]
  int64_t weights;   // of the projection times the gates, (hidden, out_channels)
  int64_t end;
  int64_t squeezed_row, weight_row;  // from a row of partials, of weights, to the next
  Strips strips;
};

// The gates are multiplied into the smaller of the two operands of the projection.
FASTCONV_INLINE bool scales_weights(const InvertedResidualShape& s) {
  return s.out_channels <= s.pixels();
}

FASTCONV_INLINE int64_t padded_hidden(const InvertedResidualShape& s) {
  return hidden_panels(s) * kHiddenPanel;
}

Memory memory_of(const InvertedResidualShape& s) {
  Memory m;
  m.strips = strips_of(s);
  m.squeezed_row = align_floats(s.squeezed);
  m.weight_row = align_floats(s.out_channels);
  m.hidden = 0;
  m.sums = padded_hidden(s) * s.pixels();
  m.partials = m.sums + m.strips.count * padded_hidden(s);
  m.weights = m.partials + div_up(s.hidden, kReduced) * m.squeezed_row;
  m.end = m.weights + (scales_weights(s) ? s.hidden * m.weight_row : 0);
  return m;
}

FASTCONV_INLINE bool hides_panels(const InvertedResidualShape& s) {
  return s.pixels() <= kPanelPixels;
}

// Units of each stage for one image.
InvertedResidualPlan stages_of(const InvertedResidualShape& s) {
  InvertedResidualPlan plan{};
  const Strips g = strips_of(s);
  const int64_t panels = hidden_panels(s);
  plan.units[kHide] = hides_panels(s) ? panels : g.count;
  plan.units[kSqueeze] = div_up(s.hidden, kReduced);
  plan.units[kGate] = panels;
  plan.units[kProject] = projection_tiles(s, s.pixels());
  const int64_t rings = (hides_panels(s) ? 1 : panels) * g.ring;
  plan.scratch_bytes = (rings + align_floats(s.squeezed)) * sizeof(float);
  return plan;
}

// A row vector times a matrix (depth, columns) of dense rows.
void multiply(const float* a, const float* b, int64_t b_row, const float* bias, float* c,
              int64_t depth, int64_t columns) {
  constexpr float kInfinity = __builtin_inff();
  GemmTile<float> t{};
  t.a_depth = 1, t.rows = 1, t.depth = depth, t.b_row = b_row;
  t.a = a, t.low = -kInfinity, t.high = kInfinity;
  for (int64_t i = 0; i < panel_count<float>(columns); ++i) {
    const Range panel = panel_at<float>(i, columns);
    t.b = b + panel.first, t.c = c + panel.first, t.columns = panel.count;
    t.bias = bias ? bias + panel.first : nullptr;
    gemm_tile(t);
  }
}

void hide(const InvertedResidualParams& p, const Memory& m, int64_t image, float* memory,
          float* rings, int64_t begin, int64_t end) {
  const bool panels = hides_panels(p);
  const int64_t first_panel = panels ? begin : 0, end_panel = panels ? end : hidden_panels(p);
  const int64_t first = panels ? 0 : begin, last = panels ? m.strips.count : end;
  const int64_t step = panels ? 1 : end_panel;
  for (int64_t panel = first_panel; panel < end_panel; panel += step) {
    int64_t done = 0;
    for (int64_t strip = first; strip < last; ++strip) {
      const RowSpan span = strip_at(p, m.strips, image, strip);
      const HiddenOutput out{memory + span.first * p.out_width * kHiddenPanel,
                             p.pixels() * kHiddenPanel, memory + m.sums + strip * padded_hidden(p)};
      hide_strip(p, m.strips, span, done, panel, panel + step, rings, out);
      done = rows_read(p, span);
    }
  }
}

// The means of some channels times their rows of the reducing weight.
void squeeze(const InvertedResidualParams& p, const Memory& m, float* memory, int64_t begin,
             int64_t end) {
  const float pixels = static_cast<float>(p.pixels());
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = unit * kReduced, count = min_of(kReduced, p.hidden - first);
    float means[kReduced];
    for_each_vector<float>(count, [&](int64_t i, auto lanes) {
      const float* sum = memory + m.sums + first + i;
      auto total = load(sum, lanes);
      for (int64_t strip = 1; strip < m.strips.count; ++strip) {
        total = total + load(sum + strip * padded_hidden(p), lanes);
      }
      store(means + i, total / vec_t<float>::set1(pixels), lanes);
    });
    multiply(means, p.squeeze_reduce_weight + first * p.squeezed, p.squeezed, nullptr,
             memory + m.partials + unit * m.squeezed_row, count, p.squeezed);
  }
}

void open_gates(Gate gate, float* z, int64_t count) {
  using V = vec_t<float>;
  const V one = V::set1(1);
  for_each_vector<float>(count, [&](int64_t i, auto lanes) {
    const V x = load(z + i, lanes);
    const V open = gate == Gate::kSigmoid
                       ? one / (one + exp(V::set1(0) - x))
                       : min(V::set1(6), max(V::set1(0), x + V::set1(3))) * V::set1(1.0f / 6);
    store(z + i, open, lanes);
  });
}

// The gates of some panels, multiplied into the weights of the projection or the hidden channels.
void gate(const InvertedResidualParams& p, const Memory& m, float* memory, float* squeezed,
          int64_t begin, int64_t end) {
  for_each_vector<float>(p.squeezed, [&](int64_t i, auto lanes) {
    const float* partial = memory + m.partials + i;
    auto sum = load(partial, lanes);
    for (int64_t unit = 1; unit < div_up(p.hidden, kReduced); ++unit) {
      sum = sum + load(partial + unit * m.squeezed_row, lanes);
    }
    if (p.squeeze_reduce_bias) sum = sum + load(p.squeeze_reduce_bias + i, lanes);
    store(squeezed + i, sum, lanes);
  });
  activate_in_place(p.squeeze_activation, squeezed, p.squeezed);
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t first = panel * kHiddenPanel, count = min_of(kHiddenPanel, p.hidden - first);
    float gates[kHiddenPanel];
    const float* bias = p.squeeze_expand_bias ? p.squeeze_expand_bias + first : nullptr;
    multiply(squeezed, p.squeeze_expand_weight + first, p.hidden, bias, gates, p.squeezed, count);
    open_gates(p.squeeze_gate, gates, count);
    if (scales_weights(p)) {
      for (int64_t c = 0; c < count; ++c) {
        const float* from = p.project_weight + (first + c) * p.project_row;
        float* to = memory + m.weights + (first + c) * m.weight_row;
        for_each_vector<float>(p.out_channels, [&](int64_t i, auto lanes) {
          store(to + i, load(from + i, lanes) * vec_t<float>::set1(gates[c]), lanes);
        });
      }
    } else {
      float* pixel = memory + m.hidden + panel * p.pixels() * kHiddenPanel;
      for (int64_t i = 0; i < p.pixels(); ++i, pixel += kHiddenPanel) {
        for_each_vector<float>(count, [&](int64_t c, auto lanes) {
          store(pixel + c, load(pixel + c, lanes) * load(gates + c, lanes), lanes);
        });
      }
    }
  }
}

void run_stage(const InvertedResidualParams& p, InvertedResidualStage stage, int64_t image,
               float* memory, float* scratch, int64_t begin, int64_t end) {
  const Memory m = memory_of(p);
  if (stage == kHide) {
    hide(p, m, image, memory, scratch + m.squeezed_row, begin, end);
  } else if (stage == kSqueeze) {
    squeeze(p, m, memory, begin, end);
  } else if (stage == kGate) {
    gate(p, m, memory, scratch, begin, end);
  } else {
    InvertedResidualParams gated = p;
    if (scales_weights(p)) {
      gated.project_weight = memory + m.weights, gated.project_row = m.weight_row;
    }
    const int64_t panel = p.pixels() * kHiddenPanel;
    project(gated, {memory, panel, image * p.pixels(), p.pixels()}, begin, end);
  }
}

}  // namespace

InvertedResidualPlan plan_squeezed(const InvertedResidualShape& s) {
  InvertedResidualPlan plan = stages_of(s);
  const int64_t bytes = memory_of(s).end * sizeof(float);
  for (int64_t& units : plan.units) units *= s.image_a_unit ? 0 : s.batch;
  if (s.image_a_unit) {
    plan.units[kProject] = s.batch;
    plan.scratch_bytes += bytes;
  } else {
    plan.shared_bytes = s.batch * bytes;
  }
  return plan;
}

void run_squeezed(const InvertedResidualParams& p, InvertedResidualStage stage, float* shared,
                  float* scratch, int64_t begin, int64_t end) {
  const InvertedResidualPlan one = stages_of(p);
  const int64_t size = memory_of(p).end;
  if (p.image_a_unit) {
    for (int64_t image = begin; image < end; ++image) {
      for (int i = 0; i < kInvertedResidualStages; ++i) {
        const auto each = static_cast<InvertedResidualStage>(i);
        run_stage(p, each, image, scratch, scratch + size, 0, one.units[i]);
      }
    }
    return;
  }
  const int64_t units = one.units[stage];
  while (begin < end) {
    const int64_t image = begin / units, until = min_of(end, (image + 1) * units);
    run_stage(p, stage, image, shared + image * size, scratch, begin - image * units,
              until - image * units);
    begin = until;
  }
}

}  // namespace fastconv::FASTCONV_ISA
