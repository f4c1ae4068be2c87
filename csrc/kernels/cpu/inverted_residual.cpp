// Inverted residual and separable blocks on the CPU: the walk over strips and panels.
#include "../inverted_residual.h"

#include "inverted_residual_hidden.h"
#include "inverted_residual_pairs.h"
#include "inverted_residual_parts.h"
#include "inverted_residual_project.h"
#include "inverted_residual_squeeze.h"
#include "registry.h"
#include "stage.h"

namespace fastconv::FASTCONV_ISA {
namespace {

// Strips that follow one another in [begin, end) share their rows of hidden channels.
void run_rows(const InvertedResidualParams& p, float* scratch, int64_t begin, int64_t end) {
  const Strips g = strips_of(p);
  const int64_t panels = hidden_panels(p);
  float* buffer = scratch + panels * g.ring;
  float* pairs = projects_pairs(p) ? buffer + panels * g.buffer : nullptr;
  if (pairs != nullptr) pack_pairs(p, pairs);
  int64_t done = 0;  // rows of the image that are expanded already
  for (int64_t unit = begin; unit < end; ++unit) {
    const RowSpan span = strip_at(p, g, unit / g.count, unit % g.count);
    if (unit == begin || span.first == 0) done = 0;
    hide_strip(p, g, span, done, 0, panels, scratch, {buffer, g.buffer, nullptr});
    done = rows_read(p, span);
    const int64_t pixels = span.count * p.out_width;
    const int64_t first = span.image * p.pixels() + span.first * p.out_width;
    project(p, {buffer, g.buffer, first, pixels, pairs});
  }
}

InvertedResidualPlan plan(const InvertedResidualShape& s) {
  if (s.squeezed > 0) return plan_squeezed(s);
  InvertedResidualPlan plan{};
  const int64_t panels = hidden_panels(s);
  const Strips g = strips_of(s);
  if (inverted_residual_by_channels(s)) {
    plan.units[kHide] = panels;
    plan.units[kPart] = part_units(s);
    plan.units[kProject] = s.pixels();
    plan.shared_bytes = parts_of(s).end * sizeof(float);
    plan.scratch_bytes = g.ring * sizeof(float);
  } else {
    plan.units[kProject] = s.batch * g.count;
    plan.unit_rows = g.rows;
    plan.scratch_bytes = (panels * (g.ring + g.buffer) + pairs_size(s)) * sizeof(float);
  }
  return plan;
}

void run_channels(const InvertedResidualParams& p, InvertedResidualStage stage, float* parts,
                  float* scratch, int64_t begin, int64_t end) {
  if (stage == kHide) return hide_panels(p, 0, parts, nullptr, scratch, begin, end);
  if (stage == kPart) return project_parts(p, 0, parts, begin, end);
  add_parts(p, 0, parts, begin, end);
}

void run(const InvertedResidualParams& p, InvertedResidualStage stage, float* shared,
         float* scratch, int64_t begin, int64_t end) {
  if (p.squeezed > 0) {
    run_squeezed(p, stage, shared, scratch, begin, end);
  } else if (inverted_residual_by_channels(p)) {
    run_channels(p, stage, shared, scratch, begin, end);
  } else {
    run_rows(p, scratch, begin, end);
  }
  stream_fence();
}

void pack(const InvertedResidualPackParams& p) {
  stage(p.weight, p.in_stride, p.out_stride, p.packed, p.out_channels, p.in_channels,
        p.out_channels);
}

}  // namespace

const InvertedResidualKernels inverted_residual_kernels = {pack, plan, run};

}  // namespace fastconv::FASTCONV_ISA
