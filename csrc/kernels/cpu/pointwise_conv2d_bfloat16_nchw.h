// Pointwise convolution of contiguous bfloat16; as PointwiseConv2dKernels has it.
#pragma once

#include "../pointwise_conv2d.h"

namespace fastconv::FASTCONV_ISA {

PointwiseConv2dPlan plan_pairs_nchw(const PointwiseConv2dParams& p);
void prepare_pairs_nchw(const PointwiseConv2dParams& p, void* prepared);
void run_pairs_nchw(const PointwiseConv2dParams& p, const void* prepared, void* scratch,
                    int64_t begin, int64_t end);

}  // namespace fastconv::FASTCONV_ISA
