// How residual_add is launched on a GPU.
#pragma once

#include "../residual_add.h"
#include "known.h"

namespace fastconv::cuda {

constexpr int kAddThreads = 256;
constexpr int kAddBlocks = 3;  // a multiprocessor, at least: left alone it takes 91 registers
// Packs of 16 bytes a thread moves from each tensor: 8 loads in flight. At 8 the bfloat16 kernel
// would need 64 registers more and lose half of its occupancy (by -Xptxas -v; not timed).
constexpr int kAddPacks = 4;

// The parameters, of these channels where they are known.
template <int channels, int residual_channels, class Params>
FASTCONV_INLINE decltype(auto) with_channels(const Params& p) {
  return with_known<(channels > 0 && residual_channels > 0)>(p, [](Params& copy) {
    copy.channels = channels, copy.residual_channels = residual_channels;
  });
}

Launch plan(const ResidualAddParams& p, const Device& device);

}  // namespace fastconv::cuda
