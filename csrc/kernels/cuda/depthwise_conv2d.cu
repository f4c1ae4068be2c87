#include "depthwise_conv2d.cuh"

#include "depthwise_conv2d_instances.cuh"

namespace fastconv::cuda {

#define FASTCONV_FOR_EACH_DTYPE(kernel)                                                     \
  FASTCONV_INSTANCE(kernel, 0), FASTCONV_INSTANCE(kernel, 1), FASTCONV_INSTANCE(kernel, 2), \
      FASTCONV_INSTANCE(kernel, 3)

#define FASTCONV_FOR_EACH_DTYPE_AND(kernel, value)                          \
  FASTCONV_INSTANCE(kernel, 0, value), FASTCONV_INSTANCE(kernel, 1, value), \
      FASTCONV_INSTANCE(kernel, 2, value), FASTCONV_INSTANCE(kernel, 3, value)

#if defined(FASTCONV_EMULATED)  // has some that are only compiled at run time
#define FASTCONV_KNOWN(kernel, channels)                                            \
  FASTCONV_INSTANCE(depthwise_conv2d_nhwc_tile, 0, kernel, 1, -1, channels),        \
      FASTCONV_INSTANCE(depthwise_conv2d_nhwc_tile, 0, kernel, 2, -1, channels),    \
      FASTCONV_INSTANCE(depthwise_conv2d_nhwc_tile, 0, kernel, 2, 0, channels),     \
      FASTCONV_INSTANCE(depthwise_conv2d_nhwc_tile, 0, kernel, 2, 1, channels),     \
      FASTCONV_INSTANCE(depthwise_conv2d_weight_nhwc_tile, 0, kernel, 1, channels), \
      FASTCONV_INSTANCE(depthwise_conv2d_weight_nhwc_tile, 0, kernel, 2, channels)
#define FASTCONV_EMULATED_ONLY                                                                  \
  , FASTCONV_KNOWN(2, 24), FASTCONV_KNOWN(3, 72), FASTCONV_KNOWN(4, 24), FASTCONV_KNOWN(6, 24), \
      FASTCONV_INSTANCE(depthwise_conv2d_gradients_nhwc_tile, 0, 2, 24),                        \
      FASTCONV_INSTANCE(depthwise_conv2d_gradients_nhwc_tile, 0, 3, 72),                        \
      FASTCONV_INSTANCE(depthwise_conv2d_gradients_nhwc_tile, 0, 4, 24)
#else
#define FASTCONV_EMULATED_ONLY
#endif

FASTCONV_DEFINE_TABLE(depthwise_conv2d, FASTCONV_FOR_EACH_DTYPE(depthwise_conv2d_any),
                      FASTCONV_INSTANCE(depthwise_conv2d_window, 0),
                      FASTCONV_INSTANCE(depthwise_conv2d_window, 2),
                      FASTCONV_INSTANCE(depthwise_conv2d_window, 3),
                      FASTCONV_FOR_EACH_DTYPE_AND(depthwise_conv2d_weight_any, 1),
                      FASTCONV_FOR_EACH_DTYPE_AND(depthwise_conv2d_weight_any, 32),
                      FASTCONV_FOR_EACH_DTYPE(depthwise_conv2d_weight_sum),
                      FASTCONV_DEPTHWISE_TILES(nhwc) FASTCONV_EMULATED_ONLY)

}  // namespace fastconv::cuda
