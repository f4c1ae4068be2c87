// The kernels of every op, built once for each instruction set, and the choice among the builds.
#pragma once

#include "../common/types.h"

namespace fastconv {

// kAMXEmulated has the matrix tiles of kAMX in plain C++: any processor runs it, for tests alone.
enum class Isa : int8_t { kScalar, kAVX2, kAVX512, kAVX512BF16, kAMX, kAMXEmulated };

// Whether this build has the instruction set, and processor and system run it.
bool supports(Isa isa);
Isa detect_isa();  // the best of those

// The instruction set in use: the detected one until set_isa. set_isa returns false, and changes
// nothing, where the processor lacks it.
Isa current_isa();
bool set_isa(Isa isa);

// Whether the kernels in use have vectors, and whether they fuse the blocks of inverted_residual.h,
// which needs vectors or matrix tiles.
bool has_vectors();
bool has_fused_blocks(DType dtype);

// What has kernels with matrix tiles; the rest takes the next best ones there.
#define FASTCONV_FOR_EACH_TILED_OP(X)                            \
  X(inverted_residual_bfloat16, InvertedResidualBfloat16Kernels) \
  X(pointwise_conv2d_bfloat16, PointwiseConv2dKernels)           \
  X(probe_bfloat16, ProbeBfloat16Kernels)                        \
  X(stem_conv2d, StemConv2dKernels)

#define FASTCONV_FOR_EACH_VECTOR_OP(X)                         \
  X(batch_norm, BatchNormKernels)                              \
  X(batch_norm_backward, BatchNormKernels)                     \
  X(dense_conv2d, DenseConv2dKernels)                          \
  X(dense_conv2d_winograd, DenseConv2dKernels)                 \
  X(depthwise_conv2d, DepthwiseConv2dKernels)                  \
  X(global_avg_pool2d, GlobalAvgPool2dKernels)                 \
  X(inverted_residual, InvertedResidualKernels)                \
  X(local_response_norm, LocalResponseNormKernels)             \
  X(local_response_norm_backward, LocalResponseNormKernels)    \
  X(max_pool2d, MaxPool2dKernels)                              \
  X(residual_add, ResidualAddKernels)                          \
  X(pointwise_conv2d, PointwiseConv2dKernels)                  \
  X(pointwise_conv2d_backward, PointwiseConv2dBackwardKernels) \
  X(activation_backward, ActivationBackwardKernels)            \
  X(probe, ProbeKernels)

#define FASTCONV_FOR_EACH_OP(X)  \
  FASTCONV_FOR_EACH_VECTOR_OP(X) \
  FASTCONV_FOR_EACH_TILED_OP(X)

// e.g. scalar::residual_add_kernels, and residual_add_kernels() for the one in use. The structs
// are only named: a kernel includes the header of its own op and no other.
#define FASTCONV_DECLARE_IN(isa, op, Kernels) \
  namespace isa {                             \
  extern const Kernels op##_kernels;          \
  }
#define FASTCONV_DECLARE(op, Kernels)           \
  struct Kernels;                               \
  FASTCONV_DECLARE_IN(scalar, op, Kernels)      \
  FASTCONV_DECLARE_IN(avx2, op, Kernels)        \
  FASTCONV_DECLARE_IN(avx512, op, Kernels)      \
  FASTCONV_DECLARE_IN(avx512_bf16, op, Kernels) \
  const Kernels& op##_kernels();
#define FASTCONV_DECLARE_TILED(op, Kernels) \
  FASTCONV_DECLARE_IN(amx, op, Kernels)     \
  FASTCONV_DECLARE_IN(amx_emulated, op, Kernels)
FASTCONV_FOR_EACH_OP(FASTCONV_DECLARE)
FASTCONV_FOR_EACH_TILED_OP(FASTCONV_DECLARE_TILED)
#undef FASTCONV_DECLARE
#undef FASTCONV_DECLARE_TILED
#undef FASTCONV_DECLARE_IN

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
