#include "depthwise_conv2d.cuh"

#include "depthwise_conv2d_instances.cuh"

namespace fastconv::cuda {

#define FASTCONV_FOR_EACH_DTYPE(kernel)                                                     \
  FASTCONV_INSTANCE(kernel, 0), FASTCONV_INSTANCE(kernel, 1), FASTCONV_INSTANCE(kernel, 2), \
      FASTCONV_INSTANCE(kernel, 3)

#define FASTCONV_FOR_EACH_DTYPE_AND(kernel, value)                          \
  FASTCONV_INSTANCE(kernel, 0, value), FASTCONV_INSTANCE(kernel, 1, value), \
      FASTCONV_INSTANCE(kernel, 2, value), FASTCONV_INSTANCE(kernel, 3, value)

FASTCONV_DEFINE_TABLE(depthwise_conv2d, FASTCONV_FOR_EACH_DTYPE(depthwise_conv2d_any),
                      FASTCONV_FOR_EACH_DTYPE_AND(depthwise_conv2d_weight_any, 1),
                      FASTCONV_FOR_EACH_DTYPE_AND(depthwise_conv2d_weight_any, 32),
                      FASTCONV_FOR_EACH_DTYPE(depthwise_conv2d_weight_sum),
                      FASTCONV_DEPTHWISE_TILES(nhwc))

}  // namespace fastconv::cuda
