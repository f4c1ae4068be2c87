#include "depthwise_conv2d_nchw.cuh"

#include "depthwise_conv2d_weight_nchw.cuh"
#include "table.cuh"

namespace fastconv::cuda {

#define FASTCONV_TILES(dtype, kernel)                                         \
  FASTCONV_INSTANCE(depthwise_conv2d_weight_nchw_tile, dtype, kernel, 1),     \
      FASTCONV_INSTANCE(depthwise_conv2d_weight_nchw_tile, dtype, kernel, 2), \
      FASTCONV_INSTANCE(depthwise_conv2d_nchw_tile, dtype, kernel, 1, -1),    \
      FASTCONV_INSTANCE(depthwise_conv2d_nchw_tile, dtype, kernel, 2, -1),    \
      FASTCONV_INSTANCE(depthwise_conv2d_nchw_tile, dtype, kernel, 2, 0),     \
      FASTCONV_INSTANCE(depthwise_conv2d_nchw_tile, dtype, kernel, 2, 1)
#define FASTCONV_TILES_OF_KERNEL(kernel) \
  FASTCONV_TILES(0, kernel), FASTCONV_TILES(2, kernel), FASTCONV_TILES(3, kernel)

FASTCONV_DEFINE_TABLE(depthwise_conv2d_nchw, FASTCONV_TILES_OF_KERNEL(3),
                      FASTCONV_TILES_OF_KERNEL(5), FASTCONV_TILES_OF_KERNEL(7))

}  // namespace fastconv::cuda
