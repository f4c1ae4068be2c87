// The channels of a fused block in float16, where they fit: behind ReLU6 they lie in [0, 6].
// Without expansion they are the input's, whose size is looked at.
#pragma once

#include "../inverted_residual_bfloat16.h"
#include "inverted_residual_hidden.h"

namespace fastconv::FASTCONV_ISA {

// Rows of the ring of a panel have a margin of zeros on either side: no tap needs a check. At the
// end of each, for each channel: a NaN where there is one; without expansion the bits of the
// largest |x|.
struct HalfRing : HiddenRing<float16> {
  int64_t row;  // elements from a row to the next
};

// Elements of a row of a ring, and of what the filters of a panel take.
int64_t half_row(const InvertedResidualShape&);
int64_t half_filter(const InvertedResidualShape&);

// Before the first row of a panel: lays out its filters and the ring's margins. False where its
// hidden channels do not fit, and are left to float32.
bool begin_half(const InvertedResidualBfloat16Params&, int64_t panel, const HalfRing&,
                float16* filter);
// What it said.
bool fits_half(const float16* filter);
// That the ring holds something else now, and is to begin anew.
void spoil(float16* filter);
bool is_spoilt(const float16* filter);

// As expand_rows and depthwise_rows of inverted_residual_bfloat16_hidden.h.
void expand_half(Tiles&, const InvertedResidualBfloat16Params&, int64_t panel, int64_t image,
                 int64_t from, int64_t to, const HalfRing&);
// Without expansion: rows [from, to) of the input.
void copy_half(const InvertedResidualBfloat16Params&, int64_t panel, int64_t image, int64_t from,
               int64_t to, const HalfRing&);
// Whether no NaN is in what span reads; without expansion, whether all is within 6, and not all too
// small for float16.
bool fits_half(const InvertedResidualBfloat16Params&, const RowSpan&, const HalfRing&);
void depthwise_half(const InvertedResidualBfloat16Params&, const RowSpan&, const HalfRing&,
                    const float16* filter, bfloat16* out);

}  // namespace fastconv::FASTCONV_ISA
