// Expand, depthwise and projection of some hidden channels of a small map at a time.
#include "inverted_residual_parts.h"

#include "inverted_residual_project.h"
#include "simd/silu.h"
#include "simd/vectors.h"

namespace fastconv::FASTCONV_ISA {
namespace {

FASTCONV_INLINE int64_t panel_floats(const InvertedResidualShape& s) {
  return s.pixels() * hidden_panel_of(s);
}

// Panels [begin, end) of the projection of a part to `out`.
void project_part(const InvertedResidualParams& p, int64_t image, int64_t part, float* parts,
                  Target to, int64_t begin, int64_t end) {
  to.panels = part_of(hidden_panels(p), kParts, part);
  const float* hidden = hidden_panel(p, parts, to.panels.first);
  project_to(p, {hidden, panel_floats(p), image * p.pixels(), p.pixels(), nullptr}, to, begin, end);
}

}  // namespace

Parts parts_of(const InvertedResidualShape& s) {
  Parts m;
  m.hidden = align_floats(s.pixels() * s.out_channels);
  const int64_t size = m.hidden + div_up(hidden_panels(s), kParts) * panel_floats(s);
  m.stride = part_stride(size);
  m.end = (kParts - 1) * m.stride + size;
  return m;
}

float* hidden_panel(const InvertedResidualShape& s, float* parts, int64_t panel) {
  const Parts m = parts_of(s);
  const Part at = part_with(panel, hidden_panels(s));
  return parts + at.part * m.stride + m.hidden + at.within * panel_floats(s);
}

void hide_panels(const InvertedResidualParams& p, int64_t image, float* parts, float* sums,
                 float* ring, int64_t begin, int64_t end) {
  const Strips g = strips_of(p);
  for (int64_t panel = begin; panel < end; ++panel) {
    float* hidden = hidden_panel(p, parts, panel);
    int64_t done = 0;
    for (int64_t strip = 0; strip < g.count; ++strip) {
      const RowSpan span = strip_at(p, g, image, strip);
      HiddenOutput out{hidden + span.first * p.out_width * hidden_panel_of(p), 0, nullptr};
      if (sums != nullptr) out.sums = sums + strip * hidden_panels(p) * hidden_panel_of(p);
      hide_strip(p, g, span, done, panel, panel + 1, ring, out);
      done = rows_read(p, span);
    }
  }
}

int64_t part_units(const InvertedResidualShape& s) {
  return kParts * projection_panels(s, s.pixels());
}

void project_parts(const InvertedResidualParams& p, int64_t image, float* parts, int64_t begin,
                   int64_t end) {
  const int64_t panels = projection_panels(p, p.pixels());
  while (begin < end) {
    const int64_t part = begin / panels, first = part * panels;
    const int64_t until = min_of(end, first + panels);
    Target to = output_target(p, image * p.pixels());
    if (part > 0) to.bias = to.residual = nullptr;
    to.out = parts + part * parts_of(p).stride;
    to.is_output = false;
    project_part(p, image, part, parts, to, begin - first, until - first);
    begin = until;
  }
}

void add_parts(const InvertedResidualParams& p, int64_t image, const float* parts, int64_t begin,
               int64_t end) {
  const int64_t first = begin * p.out_channels, stride = parts_of(p).stride;
  float* out = output_target(p, image * p.pixels()).out;
  dispatch_quick_activation(p.project_activation, [&](auto act) {
    for_each_vector<float>((end - begin) * p.out_channels, [&](int64_t i, auto lanes) {
      const float* sum = parts + first + i;
      store(out + first + i, act.forward(load(sum, lanes) + load(sum + stride, lanes)), lanes);
    });
  });
}

void project_and_add_parts(const InvertedResidualParams& p, int64_t image, float* parts) {
  Target to = output_target(p, image * p.pixels());
  to.is_output = false;
  project_part(p, image, 0, parts, to, 0, projection_panels(p, p.pixels()));
  to.bias = nullptr, to.residual = to.out;
  to.is_output = true;
  project_part(p, image, 1, parts, to, 0, projection_panels(p, p.pixels()));
}

}  // namespace fastconv::FASTCONV_ISA
