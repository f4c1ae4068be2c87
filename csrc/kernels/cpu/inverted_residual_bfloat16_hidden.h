// The hidden channels of a fused block in bfloat16, a panel at a time.
#pragma once

#include "../inverted_residual_bfloat16.h"
#include "inverted_residual_hidden.h"

namespace fastconv::FASTCONV_ISA {

// As expand_rows and depthwise_rows of inverted_residual_hidden.h.
void expand_rows(Tiles& tiles, const InvertedResidualBfloat16Params& p, int64_t panel,
                 int64_t image, int64_t from, int64_t to, const HiddenRing<bfloat16>& ring);
void depthwise_rows(const InvertedResidualBfloat16Params& p, int64_t panel, const RowSpan& span,
                    const HiddenRing<bfloat16>& ring, bfloat16* out);

}  // namespace fastconv::FASTCONV_ISA
