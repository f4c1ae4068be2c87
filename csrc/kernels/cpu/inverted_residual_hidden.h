// The hidden channels of a fused block, a panel at a time: expand and depthwise of some rows.
#pragma once

#include "../inverted_residual.h"
#include "simd/silu.h"
#include "simd/simd.h"
#include "simd/tiles.h"
#include "simd/vectors.h"

namespace fastconv::FASTCONV_ISA {

// Hidden activations lie in panels: [panel][pixel][hidden_panel_of].
constexpr int64_t kHiddenPanel = kHasTiles || kLanes<float> == 16 ? 32 : 16;
constexpr int64_t kWideHiddenPanel = 3 * kLanes<float>;

// Whether a matrix tile can do the activation itself, as a clamp.
FASTCONV_INLINE bool is_clamp(Activation act) {
  return act != Activation::kSiLU && act != Activation::kHardswish;
}

[[maybe_unused]] static void activate_in_place(Activation kind, float* z, int64_t count) {
  dispatch_quick_activation(kind, [&](auto act) {
    for_each_vector<float>(count, [&](int64_t i, auto lanes) {
      store(z + i, act.forward(load(z + i, lanes)), lanes);
    });
  });
}

FASTCONV_INLINE int64_t align_floats(int64_t count) {
  return div_up<int64_t>(count, 16) * 16;
}

// Of three vectors in float32 where they divide what a block expands to, which they do where
// channels are multiplied by six: MobileNetV2's expansions are 1.04 times as fast so (one core of
// an Intel Xeon with AMX), but those of 7x7 maps 0.93.
FASTCONV_INLINE int64_t hidden_panel_of(const InvertedResidualShape& s) {
  const bool wide = kLanes<float> == 16 && s.dtype == DType::kFloat32 && s.expands &&
                    s.height * s.width > kInvertedResidualSmallMap;
  return wide && s.hidden % kWideHiddenPanel == 0 ? kWideHiddenPanel : kHiddenPanel;
}

FASTCONV_INLINE int64_t hidden_panels(const InvertedResidualShape& s) {
  return div_up(s.hidden, hidden_panel_of(s));
}

// Rows of one panel of one expanded image: row y lies in slot (y + shift) % slots, each slot
// width * hidden_panel_of elements. Without expansion the input serves, as it is.
template <class T>
struct HiddenRing {
  T* rows;
  int64_t slots, shift;

  FASTCONV_INLINE int64_t slot(int64_t y) const { return (y + shift) % slots; }
};

// Some output rows of one image.
struct RowSpan {
  int64_t image, first, count;
};

// Where the hidden channels of a span go: [panel][pixel][hidden_panel_of], and their sums over the
// pixels to [panel][hidden_panel_of] unless null.
struct HiddenOutput {
  float* pixels;
  int64_t panel;  // elements from a panel to the next
  float* sums;
};

// How an image is cut into strips, and the ring that keeps what consecutive strips share.
struct Strips {
  int64_t rows, count;   // output rows of a strip, strips an image
  int64_t slots, shift;  // of the ring of each panel
  int64_t ring, buffer;  // elements: the ring of a panel, a panel of a strip
};

Strips strips_of(const InvertedResidualShape& s);

FASTCONV_INLINE RowSpan strip_at(const InvertedResidualShape& s, const Strips& g, int64_t image,
                                 int64_t strip) {
  const int64_t first = strip * g.rows;
  return {image, first, min_of(g.rows, s.out_height - first)};
}

// The rows of the input below those that a span reads.
FASTCONV_INLINE int64_t rows_read(const InvertedResidualShape& s, const RowSpan& span) {
  const int64_t last = span.first + span.count - 1;
  return min_of(last * s.stride_h - s.pad_top + s.kernel_h, s.height);
}

// Panels [begin, end) of a strip, the first rings[0]; rows below `done` are in the rings already.
void hide_strip(const InvertedResidualParams& p, const Strips& g, const RowSpan& span, int64_t done,
                int64_t begin, int64_t end, float* rings, const HiddenOutput& out);

}  // namespace fastconv::FASTCONV_ISA
