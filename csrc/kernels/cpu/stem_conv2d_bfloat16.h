// The convolution of an image in bfloat16; as StemConv2dKernels has it.
#pragma once

#include "../stem_conv2d.h"

namespace fastconv::FASTCONV_ISA {

StemConv2dPlan plan_stem_bfloat16(const StemConv2dParams& p);
void prepare_stem_bfloat16(const StemConv2dParams& p, void* prepared);
void run_stem_bfloat16(const StemConv2dParams& p, const void* prepared, void* scratch,
                       int64_t begin, int64_t end);

}  // namespace fastconv::FASTCONV_ISA
