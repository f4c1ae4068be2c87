// The probe's loops on torch's threads, each on a part of its own, as the kernels run.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../kernels/depthwise_conv2d_params.h"

namespace fastconv::ops {

// Rounds of multiply-adds on every thread, of float32 or of bfloat16; the floating point operations
// of all.
int64_t probe_multiply_add(int64_t rounds, bool bfloat16);
// Of float32, half of them with a factor from the L1 cache.
int64_t probe_multiply_add_loading(int64_t rounds);

void probe_read(const float* data, int64_t count, int64_t rounds);
void probe_copy(const float* from, float* to, int64_t count);
void probe_stream_copy(const float* from, float* to, int64_t count);

// The forward kernel so many times: every thread its own share of the units, without waiting for
// the others in between.
void probe_depthwise_conv2d(const DepthwiseConv2dParams& p, int64_t rounds);

}  // namespace fastconv::ops
