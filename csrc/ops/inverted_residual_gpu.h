// The fused blocks on a GPU.
#pragma once

#include <optional>

#include "inverted_residual_block.h"

namespace fastconv::ops {

// The block's result by one kernel, or nothing where the parts serve better. The shape is checked.
std::optional<Tensor> inverted_residual_on_gpu(Out out, const Block& block,
                                               const InvertedResidualParams& params);

}  // namespace fastconv::ops
