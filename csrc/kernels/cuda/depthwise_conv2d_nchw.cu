#include "depthwise_conv2d_gradients_nchw.cuh"
#include "depthwise_conv2d_instances.cuh"

namespace fastconv::cuda {

FASTCONV_DEFINE_TABLE(depthwise_conv2d_nchw, FASTCONV_DEPTHWISE_TILES(nchw))

}  // namespace fastconv::cuda
