// The weight gradient of channels_last bfloat16, a block of pixels at a time.
#pragma once

#include "../pointwise_conv2d.h"
#include "gemm.h"

namespace fastconv::FASTCONV_ISA {

constexpr int64_t kBlockPixels = 256;  // a panel of 32 floats a pixel: 32 KiB

// One panel of input channels against all output channels over at most kBlockPixels pixels, added
// to `sums` (out, in) or put there first. scratch: kBlockPixels * (kTileColumns + kTileRows).
void multiply_pairs(const PointwiseConv2dWeightGradientParams& p, Range pixels, Range panel,
                    bool first, float* sums, void* scratch);

}  // namespace fastconv::FASTCONV_ISA
