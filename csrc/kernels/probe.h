// Loops that reach what a processor can do at most: the roofline that kernels are held against.
#pragma once

#include "common/macros.h"
#include "common/types.h"

namespace fastconv {

constexpr int64_t kProbeRound = 4096;  // steps of multiply_add a round, about 20 us

struct ProbeKernels {
  // Multiplies and adds in registers for so many rounds; adds the operations done to `operations`
  // and returns what came out, so that no compiler leaves the work out.
  float (*multiply_add)(int64_t rounds, int64_t& operations);
  // The same, but for every second one a factor is loaded from the L1 cache.
  float (*multiply_add_loading)(int64_t rounds, int64_t& operations);

  float (*read)(const float* data, int64_t count);
  void (*copy)(const float* from, float* to, int64_t count);
  // Past the caches; `to` must be aligned to 64 bytes.
  void (*stream_copy)(const float* from, float* to, int64_t count);
};

struct ProbeBfloat16Kernels {
  float (*multiply_add)(int64_t rounds, int64_t& operations);  // as above, of bfloat16
};

}  // namespace fastconv
