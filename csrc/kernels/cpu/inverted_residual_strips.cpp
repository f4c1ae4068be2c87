// How an image is cut into strips of rows.
#include "inverted_residual_hidden.h"

namespace fastconv::FASTCONV_ISA {
namespace {

// Pixels of a strip; 28 and 112 were within 2 % on all blocks of MobileNetV2 and EfficientNet-Lite0
// (one core of a Zen 5).
constexpr int64_t kStripPixels = 56;

}  // namespace

Strips strips_of(const InvertedResidualShape& s) {
  Strips g;
  const int64_t least = s.stride_h == 1 ? 2 : 1;  // the depthwise tile takes two rows
  g.rows = max_of(least, kStripPixels / s.out_width);
  for (int64_t rows = g.rows; rows < 2 * g.rows; ++rows) {  // an even number of equal strips
    if (s.out_height % (2 * rows) == 0) {
      g.rows = rows;
      break;
    }
  }
  g.rows = min_of(g.rows, s.out_height);
  g.count = div_up(s.out_height, g.rows);
  // Each strip adds `fresh` rows, which lie together where slots is a multiple of them and the
  // first of them lies in such a slot.
  const int64_t fresh = g.rows * s.stride_h;
  const int64_t reach = (g.rows - 1) * s.stride_h + s.kernel_h;
  g.slots = div_up(reach, fresh) * fresh;
  g.shift = ((s.pad_top + s.stride_h - s.kernel_h) % fresh + fresh) % fresh;
  if (g.slots >= s.height) g.slots = s.height, g.shift = 0;
  g.ring = s.expands ? align_floats(g.slots * s.width * hidden_panel_of(s)) : 0;
  g.buffer = g.rows * s.out_width * hidden_panel_of(s);
  return g;
}

}  // namespace fastconv::FASTCONV_ISA
