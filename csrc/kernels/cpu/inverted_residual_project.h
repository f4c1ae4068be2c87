// The projection of a fused block: pixels of one image from panels into the output.
#pragma once

#include "../inverted_residual.h"
#include "gemm.h"
#include "inverted_residual_hidden.h"

namespace fastconv::FASTCONV_ISA {

struct Projection {
  const float* hidden;   // [panel][pixel][hidden_panel_of]
  int64_t panel;         // elements from a panel to the next
  int64_t first, count;  // pixels, over all images
  const float* pairs;    // the weights as of pack_pairs, where projects_pairs, or null
};

// Weights of the projection that stay in the L2 cache.
constexpr int64_t kWeightBytesInCache = 256 << 10;

FASTCONV_INLINE bool projection_weights_stay(int64_t hidden, int64_t out_channels) {
  return hidden * out_channels * int64_t(sizeof(float)) <= kWeightBytesInCache;
}

// Output channels that one call of the matrix product takes: three vectors or four, where they
// divide the output channels, else 0, as panel_at has them. GFLOP/s of two vectors / of these: 576
// -> 96 on 14x14 168 / 177, 192 -> 64 164 / 170; of four, 960 -> 320 on 7x7, 162 / 158 (one core of
// an Intel Xeon with AMX): there the tiles are too few to fetch the next panel, see gemm.h.
FASTCONV_INLINE int64_t projection_width(const InvertedResidualShape& s, int64_t pixels) {
  constexpr int64_t L = kLanes<float>;
  if (L != 16) return 0;
  if (s.out_channels % (3 * L) == 0) return 3 * L;
  const bool four = s.out_channels % (4 * L) == 0;
  const bool pays = pixels > kRowsOfPanels || projection_weights_stay(s.hidden, s.out_channels);
  return four && pays ? 4 * L : 0;
}

FASTCONV_INLINE int64_t projection_panels(const InvertedResidualShape& s, int64_t pixels) {
  const int64_t width = projection_width(s, pixels);
  return width > 0 ? s.out_channels / width : panel_count<float>(s.out_channels);
}

FASTCONV_INLINE Range projection_panel(const InvertedResidualShape& s, int64_t pixels, int64_t i) {
  const int64_t width = projection_width(s, pixels);
  return width > 0 ? Range{i * width, width} : panel_at<float>(i, s.out_channels);
}

// What becomes of the sums over some panels of hidden channels.
struct Target {
  Range panels;
  const float *bias, *residual;  // null, or the latter as out
  float* out;                    // at the first pixel, out_channels to the next
  bool is_output;                // which has an activation
};

FASTCONV_INLINE Target output_target(const InvertedResidualParams& p, int64_t pixel) {
  const float* residual = p.residual ? p.residual + pixel * p.out_channels : nullptr;
  float* out = p.output + pixel * p.out_channels;
  return {{0, hidden_panels(p)}, p.project_bias, residual, out, true};
}

// Panels [begin, end) of projection_panels(p, from.count), from.hidden at the first panel of `to`.
void project_to(const InvertedResidualParams& p, const Projection& from, const Target& to,
                int64_t begin, int64_t end);

// All of them, to the output.
void project(const InvertedResidualParams& p, const Projection& from);

}  // namespace fastconv::FASTCONV_ISA
