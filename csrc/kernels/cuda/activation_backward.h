// How activation_backward is launched on a GPU.
#pragma once

#include "../activation_backward.h"
#include "launch.h"

namespace fastconv::cuda {

constexpr int kActivationThreads = 256;

Launch plan(const ActivationBackwardParams& p, const Device& device);

}  // namespace fastconv::cuda
