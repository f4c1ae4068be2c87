// Projections to few channels, two hidden channels at a time: 8 output channels and both weights of
// each fill a vector, so that 24 channels waste no lane and 16 take two vectors, not one, for each
// load of the hidden channels.
#pragma once

#include "gemm.h"
#include "inverted_residual_hidden.h"

namespace fastconv::FASTCONV_ISA {

// GFLOP/s by pairs / by gemm_tile, hidden -> out channels: 32 -> 16, 112x112: 117 / 97, 144 -> 24,
// 56x56: 168 / 114, 240 -> 40, 28x28: 157 / 128 (one core of an Intel Xeon with AMX).
FASTCONV_INLINE bool projects_pairs(const InvertedResidualShape& s) {
  const int64_t n = s.out_channels;
  return kLanes<float> == 16 && s.dtype == DType::kFloat32 && s.hidden % 2 == 0 &&
         (n == 8 || n == 16 || n == 24 || n == 40);
}

// Floats of the weights in that order; 0 where they stay as they are.
FASTCONV_INLINE int64_t pairs_size(const InvertedResidualShape& s) {
  return projects_pairs(s) ? align_floats(s.hidden * s.out_channels) : 0;
}

// The weights in panels of at most 24 columns: pairs[panel][hidden / 2][column][2].
void pack_pairs(const InvertedResidualParams& p, float* pairs);

// As gemm_tile with all columns, t.b from pack_pairs; the sums over even and odd channels are added
// last: output = act((bias + even + odd) + residual).
void pairs_tile(const GemmTile<float>& t);

}  // namespace fastconv::FASTCONV_ISA
