// How local_response_norm and its backward pass are launched on a GPU.
#pragma once

#include "../local_response_norm.h"
#include "known.h"

namespace fastconv::cuda {

constexpr int kNormThreads = 128;
// Windows that have instances compiled ahead of time; NVRTC compiles for others up to this.
constexpr int kNormWindow = 5;
constexpr int kNormMostWindow = 15;
// NCHW: channels a thread walks down, at least. It reads window - 1 channels of its neighbours
// again, from L2: at 32 and a window of 5 an eighth more than it must (arithmetic, not timed).
constexpr int64_t kNormLeastChannels = 32;
// NCHW: elements of a pack. The rings of a backward pass take 13 registers an element.
constexpr int kNormMostPack = 4;

// The parameters, of this number of channels where that is known.
template <int channels, class Params>
FASTCONV_INLINE decltype(auto) with_channels(const Params& p) {
  return with_known<(channels > 0)>(p, [](Params& copy) { copy.channels = channels; });
}

Launch plan(const LocalResponseNormParams& p, const Device& device);

}  // namespace fastconv::cuda
