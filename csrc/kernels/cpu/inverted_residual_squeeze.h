// Blocks with squeeze-and-excitation, whose gates wait for the whole map of hidden channels.
#pragma once

#include "../inverted_residual.h"

namespace fastconv::FASTCONV_ISA {

InvertedResidualPlan plan_squeezed(const InvertedResidualShape& s);

void run_squeezed(const InvertedResidualParams& p, InvertedResidualStage stage, float* shared,
                  float* scratch, int64_t begin, int64_t end);

}  // namespace fastconv::FASTCONV_ISA
