#include "depthwise_conv2d_gradients_nchw.cuh"
#include "depthwise_conv2d_instances.cuh"

namespace fastconv::cuda {

#if defined(FASTCONV_EMULATED)  // has some that are only compiled at run time
#define FASTCONV_EMULATED_ONLY                                                       \
  , FASTCONV_DEPTHWISE_TILE(nchw, 0, 2), FASTCONV_DEPTHWISE_TILE(nchw, 0, 4),        \
      FASTCONV_DEPTHWISE_TILE(nchw, 0, 6), FASTCONV_DEPTHWISE_GRADIENTS(nchw, 0, 2), \
      FASTCONV_DEPTHWISE_GRADIENTS(nchw, 0, 4)
#else
#define FASTCONV_EMULATED_ONLY
#endif

FASTCONV_DEFINE_TABLE(depthwise_conv2d_nchw, FASTCONV_DEPTHWISE_TILES(nchw) FASTCONV_EMULATED_ONLY)

}  // namespace fastconv::cuda
