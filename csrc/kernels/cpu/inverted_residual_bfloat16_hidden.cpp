// Expand and depthwise of a panel of hidden channels: bfloat16 in memory, float32 in registers.
#include "inverted_residual_bfloat16_hidden.h"

#include "gemm_bfloat16.h"
#include "inverted_residual_depthwise.h"

namespace fastconv::FASTCONV_ISA {

void expand_rows(Tiles& tiles, const InvertedResidualBfloat16Params& p, int64_t panel,
                 int64_t image, int64_t from, int64_t to, const HiddenRing<bfloat16>& ring) {
  PairTile<bfloat16> t{};
  t.a_row = p.in_channels, t.a_pair = 2, t.pairs = p.in_channels / 2;
  t.b = p.expand_weight + 2 * panel * kHiddenPanel, t.b_row = 2 * p.expand_row;
  t.bias = p.expand_bias ? p.expand_bias + panel * kHiddenPanel : nullptr;
  t.c_row = kHiddenPanel;
  t.columns = min_of(kHiddenPanel, p.hidden - panel * kHiddenPanel);
  set_clamp(t, p.activation);
  while (from < to) {
    const int64_t slot = ring.slot(from), rows = min_of(to - from, ring.slots - slot);
    t.a = p.input + (image * p.height + from) * p.width * p.in_channels;
    t.c = ring.rows + slot * p.width * kHiddenPanel;
    t.rows = rows * p.width;
    pair_tile(tiles, t, p.activation);
    from += rows;
  }
}

void depthwise_rows(const InvertedResidualBfloat16Params& p, int64_t panel, const RowSpan& span,
                    const HiddenRing<bfloat16>& ring, bfloat16* out) {
  depthwise_rows(p, panel, span, ring, out, nullptr);
}

}  // namespace fastconv::FASTCONV_ISA
