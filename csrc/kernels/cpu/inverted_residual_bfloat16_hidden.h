// The hidden channels of a fused block in bfloat16, a panel at a time.
#pragma once

#include "../inverted_residual_bfloat16.h"
#include "inverted_residual_hidden.h"

namespace fastconv::FASTCONV_ISA {

// As in inverted_residual_hidden.h: the ring holds float32, out what the projection multiplies.
void expand_rows(const InvertedResidualBfloat16Params& p, int64_t panel, int64_t image,
                 int64_t from, int64_t to, const HiddenRing& ring);
void depthwise_rows(const InvertedResidualBfloat16Params& p, int64_t panel, const RowSpan& span,
                    const HiddenRing& ring, bfloat16* out);

}  // namespace fastconv::FASTCONV_ISA
