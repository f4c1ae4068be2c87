// Blocks with squeeze-and-excitation: hidden channels and their sums in one pass, then the gates,
// then the projection. The sums of a strip are added in the order of the strips, whoever made them.
#include "inverted_residual_squeeze.h"

#include "../pointwise_panels.h"
#include "inverted_residual_hidden.h"
#include "inverted_residual_pairs.h"
#include "inverted_residual_parts.h"
#include "inverted_residual_project.h"

namespace fastconv::FASTCONV_ISA {
namespace {

// Channels that one unit of the squeeze stage reduces.
constexpr int64_t kReduced = 128;

// Small maps are hidden and projected a part of the channels at a time, larger ones a strip of
// rows: what is hidden stays with the thread that hid it. EfficientNet-B0, its blocks at batch 1 on
// two cores of a Zen 5: 2783 to 2161 us; in parts on 14x14, too: 2187 us.
FASTCONV_INLINE bool in_parts(const InvertedResidualShape& s) {
  return s.pixels() <= kInvertedResidualSmallMap;
}

FASTCONV_INLINE int64_t padded_hidden(const InvertedResidualShape& s) {
  return hidden_panels(s) * hidden_panel_of(s);
}

// What is kept of one image: where each part begins, in floats; first the hidden channels, in parts
// of channels, or of strips [strip][panel][pixel][hidden_panel_of].
struct Memory {
  int64_t stride;    // from a part of the strips to the next
  int64_t sums;      // [strip][panel][hidden_panel_of]
  int64_t partials;  // [unit of squeeze][squeezed]
  int64_t gates;     // [panel][hidden_panel_of]
  int64_t end;
  int64_t squeezed_row;  // from a row of partials to the next
  Strips strips;
};

Memory memory_of(const InvertedResidualShape& s) {
  Memory m;
  m.strips = strips_of(s);
  m.squeezed_row = align_floats(s.squeezed);
  m.stride = part_stride(div_up(m.strips.count, kParts) * hidden_panels(s) * m.strips.buffer);
  m.sums = in_parts(s) ? align_floats(parts_of(s).end) : kParts * m.stride;
  m.partials = m.sums + m.strips.count * padded_hidden(s);
  m.gates = m.partials + div_up(s.hidden, kReduced) * m.squeezed_row;
  m.end = m.gates + padded_hidden(s);
  return m;
}

// Units of each stage for one image, and the scratch of the largest.
InvertedResidualPlan stages_of(const InvertedResidualShape& s) {
  InvertedResidualPlan plan{};
  const Strips g = strips_of(s);
  const int64_t panels = hidden_panels(s);
  plan.units[kHide] = in_parts(s) ? panels : g.count;
  plan.units[kSqueeze] = div_up(s.hidden, kReduced);
  plan.units[kGate] = panels;
  plan.units[kPart] = in_parts(s) ? part_units(s) : 0;
  plan.units[kProject] = in_parts(s) ? s.pixels() : g.count;
  const int64_t hide = in_parts(s) ? g.ring : panels * g.ring;
  const int64_t project = in_parts(s) ? 0 : s.hidden * align_floats(s.out_channels) + pairs_size(s);
  plan.scratch_bytes = max_of(align_floats(s.squeezed), max_of(hide, project)) * sizeof(float);
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

// Where the hidden channels of a strip begin.
int64_t strip_offset(const InvertedResidualShape& s, const Memory& m, int64_t strip) {
  const Part at = part_with(strip, m.strips.count);
  return at.part * m.stride + at.within * hidden_panels(s) * m.strips.buffer;
}

// Strips [begin, end).
void hide_strips(const InvertedResidualParams& p, const Memory& m, int64_t image, float* memory,
                 float* rings, int64_t begin, int64_t end) {
  int64_t done = 0;
  for (int64_t i = begin; i < end; ++i) {
    const RowSpan span = strip_at(p, m.strips, image, i);
    hide_strip(
        p, m.strips, span, done, 0, hidden_panels(p), rings,
        {memory + strip_offset(p, m, i), m.strips.buffer, memory + m.sums + i * padded_hidden(p)});
    done = rows_read(p, span);
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

// The gates of some panels; where the map is in parts they are multiplied into it.
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
    const int64_t first = panel * hidden_panel_of(p),
                  count = min_of(hidden_panel_of(p), p.hidden - first);
    float* gates = memory + m.gates + first;
    const float* bias = p.squeeze_expand_bias ? p.squeeze_expand_bias + first : nullptr;
    multiply(squeezed, p.squeeze_expand_weight + first, p.hidden, bias, gates, p.squeezed, count);
    open_gates(p.squeeze_gate, gates, count);
    if (!in_parts(p)) continue;
    float* pixel = hidden_panel(p, memory, panel);
    for (int64_t i = 0; i < p.pixels(); ++i, pixel += hidden_panel_of(p)) {
      for_each_vector<float>(count, [&](int64_t c, auto lanes) {
        store(pixel + c, load(pixel + c, lanes) * load(gates + c, lanes), lanes);
      });
    }
  }
}

// Strips [begin, end); the gates are multiplied into the weights, which fewer pixels read than not.
void project_strips(const InvertedResidualParams& p, const Memory& m, int64_t image,
                    const float* memory, float* weights, int64_t begin, int64_t end) {
  InvertedResidualParams gated = p;
  gated.project_weight = weights;
  const auto open = [&](int64_t from, int64_t to, int64_t c, int64_t columns) {
    const auto gate = vec_t<float>::set1(memory[m.gates + c]);
    for_each_vector<float>(columns, [&](int64_t i, auto lanes) {
      store(weights + to + i, load(p.project_weight + from + i, lanes) * gate, lanes);
    });
  };
  if (p.project_row > 0) {
    gated.project_row = align_floats(p.out_channels);
    for (int64_t c = 0; c < p.hidden; ++c) {
      open(c * p.project_row, c * gated.project_row, c, p.out_channels);
    }
  } else {
    for (PackedPanel panel{}; panel.first < p.out_channels; panel.first += panel.columns) {
      panel = packed_panel_of(panel.first, p.out_channels);
      for (int64_t c = 0; c < p.hidden; ++c) {
        const int64_t at = packed_offset(panel, panel.first, c, p.hidden);
        open(at, at, c, panel.columns);
      }
    }
  }
  float* pairs = projects_pairs(p) ? weights + p.hidden * align_floats(p.out_channels) : nullptr;
  if (pairs != nullptr) pack_pairs(gated, pairs);
  for (int64_t i = begin; i < end; ++i) {
    const RowSpan span = strip_at(p, m.strips, image, i);
    project(gated,
            {memory + strip_offset(p, m, i), m.strips.buffer,
             image * p.pixels() + span.first * p.out_width, span.count * p.out_width, pairs});
  }
}

void run_stage(const InvertedResidualParams& p, InvertedResidualStage stage, int64_t image,
               float* memory, float* scratch, int64_t begin, int64_t end) {
  const Memory m = memory_of(p);
  if (stage == kSqueeze) return squeeze(p, m, memory, begin, end);
  if (stage == kGate) return gate(p, m, memory, scratch, begin, end);
  if (!in_parts(p)) {
    return stage == kHide ? hide_strips(p, m, image, memory, scratch, begin, end)
                          : project_strips(p, m, image, memory, scratch, begin, end);
  }
  if (stage == kHide) {
    hide_panels(p, image, memory, memory + m.sums, scratch, begin, end);
  } else if (stage == kPart) {
    project_parts(p, image, memory, begin, end);
  } else {
    add_parts(p, image, memory, begin, end);
  }
}

// All stages of one image.
void run_image(const InvertedResidualParams& p, int64_t image, float* memory, float* scratch) {
  const InvertedResidualPlan one = stages_of(p);
  run_stage(p, kHide, image, memory, scratch, 0, one.units[kHide]);
  run_stage(p, kSqueeze, image, memory, scratch, 0, one.units[kSqueeze]);
  run_stage(p, kGate, image, memory, scratch, 0, one.units[kGate]);
  if (in_parts(p)) return project_and_add_parts(p, image, memory);
  run_stage(p, kProject, image, memory, scratch, 0, one.units[kProject]);
}

}  // namespace

InvertedResidualPlan plan_squeezed(const InvertedResidualShape& s) {
  InvertedResidualPlan plan = stages_of(s);
  const int64_t bytes = memory_of(s).end * sizeof(float);
  for (int64_t& units : plan.units) units *= s.image_a_unit ? 0 : s.batch;
  if (s.image_a_unit) {
    plan.units[kProject] = s.batch;
    plan.unit_rows = s.out_height;
    plan.scratch_bytes += bytes;
  } else {
    plan.shared_bytes = s.batch * bytes;
  }
  return plan;
}

void run_squeezed(const InvertedResidualParams& p, InvertedResidualStage stage, float* shared,
                  float* scratch, int64_t begin, int64_t end) {
  const int64_t size = memory_of(p).end;
  if (p.image_a_unit) {
    for (int64_t image = begin; image < end; ++image) {
      run_image(p, image, scratch, scratch + size);
    }
    return;
  }
  const int64_t units = stages_of(p).units[stage];
  while (begin < end) {
    const int64_t image = begin / units, until = min_of(end, (image + 1) * units);
    run_stage(p, stage, image, shared + image * size, scratch, begin - image * units,
              until - image * units);
    begin = until;
  }
}

}  // namespace fastconv::FASTCONV_ISA
