// Small maps, the hidden channels in parts: each is hidden and projected by itself, to sums that
// are then added. Where a thread has a part, the sums are all that passes from core to core: lines
// that another core has read are written at 8 GB/s (188 KB in 24 us, two cores of a Zen 5). Always
// as many parts, for the same bits on any number of threads:
//   output = act((bias + part 0 + residual) + part 1)
#pragma once

#include "../inverted_residual.h"
#include "gemm.h"
#include "inverted_residual_hidden.h"

namespace fastconv::FASTCONV_ISA {

constexpr int64_t kParts = 2;

// Which part an item of a sequence that is cut into parts is in, and where there.
struct Part {
  int64_t part, within;
};

FASTCONV_INLINE Part part_with(int64_t i, int64_t count) {
  int64_t part = kParts - 1;
  while (part_of(count, kParts, part).first > i) --part;
  return {part, i - part_of(count, kParts, part).first};
}

// Floats from a part of this size to the next: the same in all blocks where that is enough, so that
// the lines of a part stay with the core that has them.
FASTCONV_INLINE int64_t part_stride(int64_t size) {
  constexpr int64_t kFloats = 1 << 18;
  return div_up(size, kFloats) * kFloats;
}

// What is kept of an image, in floats: of each part its sums, then its hidden channels,
// [panel][pixel][hidden_panel_of].
struct Parts {
  int64_t hidden;  // where they begin
  int64_t stride;  // from a part to the next
  int64_t end;
};

Parts parts_of(const InvertedResidualShape& s);

// The hidden channels of a panel, within the parts of its image.
float* hidden_panel(const InvertedResidualShape& s, float* parts, int64_t panel);

// Panels [begin, end) of an image. Unless null, the sums of strip i over the pixels go to
// sums[i][panel][hidden_panel_of]. ring: strips_of(p).ring floats.
void hide_panels(const InvertedResidualParams& p, int64_t image, float* parts, float* sums,
                 float* ring, int64_t begin, int64_t end);

// Units [begin, end) of part_units(p).
int64_t part_units(const InvertedResidualShape& s);
void project_parts(const InvertedResidualParams& p, int64_t image, float* parts, int64_t begin,
                   int64_t end);
// Pixels [begin, end) of the image.
void add_parts(const InvertedResidualParams& p, int64_t image, const float* parts, int64_t begin,
               int64_t end);
// Both, by one thread.
void project_and_add_parts(const InvertedResidualParams& p, int64_t image, float* parts);

}  // namespace fastconv::FASTCONV_ISA
