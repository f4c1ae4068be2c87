// Weight gradients by matrix tiles, where the kernels in use have some.
#pragma once

namespace fastconv {

struct PointwiseConv2dBackwardKernels;

namespace amx {
extern const PointwiseConv2dBackwardKernels pointwise_conv2d_backward_tiles_kernels;
}
namespace amx_emulated {
extern const PointwiseConv2dBackwardKernels pointwise_conv2d_backward_tiles_kernels;
}

// For channels_last bfloat16 of stride 1, without bias: plan and run, of which each unit leaves the
// sums of a split. Null where there are no tiles.
const PointwiseConv2dBackwardKernels* pointwise_conv2d_backward_tiles();

}  // namespace fastconv
