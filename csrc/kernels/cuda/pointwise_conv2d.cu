#include "pointwise_conv2d.cuh"

#include "table.cuh"

namespace fastconv::cuda {

#define BOTH_LAYOUTS(kernel, dtype, ...) \
  FASTCONV_INSTANCE(kernel, dtype, 0, __VA_ARGS__), FASTCONV_INSTANCE(kernel, dtype, 1, __VA_ARGS__)
#define OF_DTYPE(dtype)                                                   \
  BOTH_LAYOUTS(pointwise_conv2d_simt, dtype, 1),                          \
      FASTCONV_INSTANCE(pointwise_conv2d_weight_gradient_simt, dtype, 0), \
      FASTCONV_INSTANCE(pointwise_conv2d_weight_gradient_simt, dtype, 1), \
      FASTCONV_INSTANCE(pointwise_conv2d_weight_gradient_sum, dtype),     \
      FASTCONV_INSTANCE(pointwise_conv2d_spread, dtype)

FASTCONV_DEFINE_TABLE(pointwise_conv2d, OF_DTYPE(0), OF_DTYPE(1), OF_DTYPE(2), OF_DTYPE(3),
                      BOTH_LAYOUTS(pointwise_conv2d_simt, 0, 4))

}  // namespace fastconv::cuda
