#include "depthwise_conv2d.cuh"

#include "table.cuh"

namespace fastconv::cuda {

#define FASTCONV_FOR_EACH_DTYPE(kernel)                                                     \
  FASTCONV_INSTANCE(kernel, 0), FASTCONV_INSTANCE(kernel, 1), FASTCONV_INSTANCE(kernel, 2), \
      FASTCONV_INSTANCE(kernel, 3)

#define FASTCONV_FOR_EACH_DTYPE_AND(kernel, value)                          \
  FASTCONV_INSTANCE(kernel, 0, value), FASTCONV_INSTANCE(kernel, 1, value), \
      FASTCONV_INSTANCE(kernel, 2, value), FASTCONV_INSTANCE(kernel, 3, value)

#define FASTCONV_TILES(dtype, kernel)                                         \
  FASTCONV_INSTANCE(depthwise_conv2d_weight_nhwc_tile, dtype, kernel, 1),     \
      FASTCONV_INSTANCE(depthwise_conv2d_weight_nhwc_tile, dtype, kernel, 2), \
      FASTCONV_INSTANCE(depthwise_conv2d_nhwc_tile, dtype, kernel, 1, -1),    \
      FASTCONV_INSTANCE(depthwise_conv2d_nhwc_tile, dtype, kernel, 2, -1),    \
      FASTCONV_INSTANCE(depthwise_conv2d_nhwc_tile, dtype, kernel, 2, 0),     \
      FASTCONV_INSTANCE(depthwise_conv2d_nhwc_tile, dtype, kernel, 2, 1)
#define FASTCONV_TILES_OF_KERNEL(kernel) \
  FASTCONV_TILES(0, kernel), FASTCONV_TILES(2, kernel), FASTCONV_TILES(3, kernel)

FASTCONV_DEFINE_TABLE(depthwise_conv2d, FASTCONV_FOR_EACH_DTYPE(depthwise_conv2d_any),
                      FASTCONV_FOR_EACH_DTYPE_AND(depthwise_conv2d_weight_any, 1),
                      FASTCONV_FOR_EACH_DTYPE_AND(depthwise_conv2d_weight_any, 32),
                      FASTCONV_FOR_EACH_DTYPE(depthwise_conv2d_weight_sum),
                      FASTCONV_TILES_OF_KERNEL(3), FASTCONV_TILES_OF_KERNEL(5),
                      FASTCONV_TILES_OF_KERNEL(7))

}  // namespace fastconv::cuda
