// The convolution of an image in bfloat16; as StemConv2dKernels has it.
#pragma once

#include <cstring>

#include "../stem_conv2d.h"
#include "stage.h"

namespace fastconv::FASTCONV_ISA {

// The bias, if any, as the tiles read it.
template <class T>
FASTCONV_INLINE void stage_bias(const StemConv2dParams& p, accumulate_t<T>* to) {
  if (p.bias == nullptr) return;
  if (p.bias_is_float32) {
    std::memcpy(to, p.bias, p.out_channels * sizeof(float));
  } else {
    stage_row(static_cast<const T*>(p.bias), to, p.out_channels);
  }
}

StemConv2dPlan plan_stem_bfloat16(const StemConv2dParams& p);
void prepare_stem_bfloat16(const StemConv2dParams& p, void* prepared);
void run_stem_bfloat16(const StemConv2dParams& p, const void* prepared, void* scratch,
                       int64_t begin, int64_t end);

}  // namespace fastconv::FASTCONV_ISA
