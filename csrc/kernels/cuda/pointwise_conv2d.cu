#include "pointwise_conv2d.cuh"

#include "table.cuh"

namespace fastconv::cuda {

#define OF_DTYPE(dtype)                                               \
  FASTCONV_INSTANCE(pointwise_conv2d_join, dtype, 0),                 \
      FASTCONV_INSTANCE(pointwise_conv2d_join, dtype, 1),             \
      FASTCONV_INSTANCE(pointwise_conv2d_weight_gradient_sum, dtype), \
      FASTCONV_INSTANCE(pointwise_conv2d_spread, dtype)
#define SIMT(dtype)                                                       \
  FASTCONV_INSTANCE(pointwise_conv2d_simt, dtype, 0, 1),                  \
      FASTCONV_INSTANCE(pointwise_conv2d_simt, dtype, 1, 1),              \
      FASTCONV_INSTANCE(pointwise_conv2d_split_simt, dtype, 0, 1),        \
      FASTCONV_INSTANCE(pointwise_conv2d_split_simt, dtype, 1, 1),        \
      FASTCONV_INSTANCE(pointwise_conv2d_weight_gradient_simt, dtype, 0), \
      FASTCONV_INSTANCE(pointwise_conv2d_weight_gradient_simt, dtype, 1)
// As mma_outs in pointwise_conv2d_plan.cpp chooses from.
#define MMA(dtype)                                                          \
  FASTCONV_INSTANCE(pointwise_conv2d_mma, dtype, 0, 1, 64),                 \
      FASTCONV_INSTANCE(pointwise_conv2d_mma, dtype, 0, 8, 64),             \
      FASTCONV_INSTANCE(pointwise_conv2d_mma, dtype, 0, 8, 128),            \
      FASTCONV_INSTANCE(pointwise_conv2d_mma, dtype, 1, 1, 64),             \
      FASTCONV_INSTANCE(pointwise_conv2d_mma, dtype, 1, 8, 32),             \
      FASTCONV_INSTANCE(pointwise_conv2d_mma, dtype, 1, 8, 64),             \
      FASTCONV_INSTANCE(pointwise_conv2d_mma, dtype, 1, 8, 128),            \
      FASTCONV_INSTANCE(pointwise_conv2d_split_mma, dtype, 0, 1, 64),       \
      FASTCONV_INSTANCE(pointwise_conv2d_split_mma, dtype, 0, 8, 64),       \
      FASTCONV_INSTANCE(pointwise_conv2d_split_mma, dtype, 1, 1, 64),       \
      FASTCONV_INSTANCE(pointwise_conv2d_split_mma, dtype, 1, 8, 32),       \
      FASTCONV_INSTANCE(pointwise_conv2d_weight_gradient_mma, dtype, 0, 1), \
      FASTCONV_INSTANCE(pointwise_conv2d_weight_gradient_mma, dtype, 0, 8), \
      FASTCONV_INSTANCE(pointwise_conv2d_weight_gradient_mma, dtype, 1, 1), \
      FASTCONV_INSTANCE(pointwise_conv2d_weight_gradient_mma, dtype, 1, 8)

#if defined(FASTCONV_EMULATED)  // has some that are only compiled at run time
#define FASTCONV_KNOWN(layout, wide, ins, outs)                      \
  FASTCONV_INSTANCE(pointwise_conv2d_simt, 0, layout, 4, ins, outs), \
      FASTCONV_INSTANCE(pointwise_conv2d_mma, 2, layout, 8, wide, ins, outs)
#define FASTCONV_EMULATED_ONLY                                                                   \
  , FASTCONV_KNOWN(0, 64, 40, 24), FASTCONV_KNOWN(0, 64, 24, 40), FASTCONV_KNOWN(1, 32, 40, 24), \
      FASTCONV_KNOWN(1, 32, 24, 40),                                                             \
      FASTCONV_INSTANCE(pointwise_conv2d_weight_gradient_simt, 0, 0, 40, 24),                    \
      FASTCONV_INSTANCE(pointwise_conv2d_weight_gradient_simt, 0, 1, 40, 24),                    \
      FASTCONV_INSTANCE(pointwise_conv2d_weight_gradient_sum, 0, 40, 24),                        \
      FASTCONV_INSTANCE(pointwise_conv2d_weight_gradient_sum, 2, 40, 24),                        \
      FASTCONV_INSTANCE(pointwise_conv2d_spread, 0, 40, 24),                                     \
      FASTCONV_INSTANCE(pointwise_conv2d_spread, 2, 40, 24)
#else
#define FASTCONV_EMULATED_ONLY
#endif

FASTCONV_DEFINE_TABLE(pointwise_conv2d, OF_DTYPE(0), OF_DTYPE(1), OF_DTYPE(2), OF_DTYPE(3), SIMT(0),
                      SIMT(1), MMA(2), MMA(3), FASTCONV_INSTANCE(pointwise_conv2d_simt, 0, 0, 4),
                      FASTCONV_INSTANCE(pointwise_conv2d_simt, 0, 1, 4),
                      FASTCONV_INSTANCE(pointwise_conv2d_split_simt, 0, 0, 4),
                      FASTCONV_INSTANCE(pointwise_conv2d_split_simt, 0, 1, 4)
                          FASTCONV_EMULATED_ONLY)

}  // namespace fastconv::cuda
