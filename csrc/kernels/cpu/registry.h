// The kernels of every op, built once for each instruction set, and the choice among the builds.
#pragma once

#include "../activation_backward.h"
#include "../batch_norm.h"
#include "../common/types.h"
#include "../depthwise_conv2d.h"
#include "../global_avg_pool2d.h"
#include "../inverted_residual.h"
#include "../inverted_residual_bfloat16.h"
#include "../local_response_norm.h"
#include "../max_pool2d.h"
#include "../pointwise_conv2d.h"
#include "../probe.h"
#include "../residual_add.h"
#include "../stem_conv2d.h"

namespace fastconv {

enum class Isa : int8_t { kScalar, kAVX2, kAVX512, kAVX512BF16 };

// The best instruction set of this processor and operating system.
Isa detect_isa();

// The instruction set in use: the detected one until set_isa. set_isa returns false, and changes
// nothing, where the processor lacks it.
Isa current_isa();
bool set_isa(Isa isa);

#define FASTCONV_FOR_EACH_OP(X)                                  \
  X(batch_norm, BatchNormKernels)                                \
  X(batch_norm_backward, BatchNormKernels)                       \
  X(depthwise_conv2d, DepthwiseConv2dKernels)                    \
  X(global_avg_pool2d, GlobalAvgPool2dKernels)                   \
  X(inverted_residual, InvertedResidualKernels)                  \
  X(inverted_residual_bfloat16, InvertedResidualBfloat16Kernels) \
  X(local_response_norm, LocalResponseNormKernels)               \
  X(local_response_norm_backward, LocalResponseNormKernels)      \
  X(max_pool2d, MaxPool2dKernels)                                \
  X(residual_add, ResidualAddKernels)                            \
  X(pointwise_conv2d, PointwiseConv2dKernels)                    \
  X(pointwise_conv2d_bfloat16, PointwiseConv2dKernels)           \
  X(pointwise_conv2d_backward, PointwiseConv2dBackwardKernels)   \
  X(stem_conv2d, StemConv2dKernels)                              \
  X(activation_backward, ActivationBackwardKernels)              \
  X(probe, ProbeKernels)

// e.g. scalar::residual_add_kernels, and residual_add_kernels() for the one in use.
#define FASTCONV_DECLARE(op, Kernels) \
  namespace scalar {                  \
  extern const Kernels op##_kernels;  \
  }                                   \
  namespace avx2 {                    \
  extern const Kernels op##_kernels;  \
  }                                   \
  namespace avx512 {                  \
  extern const Kernels op##_kernels;  \
  }                                   \
  namespace avx512_bf16 {             \
  extern const Kernels op##_kernels;  \
  }                                   \
  const Kernels& op##_kernels();
FASTCONV_FOR_EACH_OP(FASTCONV_DECLARE)
#undef FASTCONV_DECLARE

// Calls f with a value of the storage type that dtype names.
template <class F>
FASTCONV_INLINE void dispatch_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kFloat32:
      return f(float{});
    case DType::kFloat64:
      return f(double{});
    case DType::kBFloat16:
      return f(bfloat16{});
    case DType::kFloat16:
      return f(float16{});
  }
}

}  // namespace fastconv
