#include "depthwise_conv2d_nchw.cuh"

#include "depthwise_conv2d_instances.cuh"
#include "depthwise_conv2d_weight_nchw.cuh"

namespace fastconv::cuda {

FASTCONV_DEFINE_TABLE(depthwise_conv2d_nchw, FASTCONV_DEPTHWISE_TILES(nchw))

}  // namespace fastconv::cuda
