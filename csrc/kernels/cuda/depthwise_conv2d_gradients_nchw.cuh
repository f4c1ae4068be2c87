// Both gradients of a depthwise convolution of stride 1 of contiguous tensors, in one pass: either
// sums what a pixel of the input meets of grad_output, which a block therefore stages once.
#pragma once

#include "depthwise_conv2d_nchw.cuh"
#include "depthwise_conv2d_weight_nchw.cuh"

namespace fastconv::cuda {

template <int dtype, int kernel>
__global__ void __launch_bounds__(kTileThreads, plane_gradients_blocks(kernel))
    depthwise_conv2d_gradients_nchw_tile(const DepthwiseGradientsParams p) {
  using T = element_t<dtype>;
  constexpr DepthwiseTile tile = plane_gradients_tile(kernel);
  constexpr int kTaps = kernel * kernel, kMiddle = middle_tap(kernel);
  FASTCONV_SHARED(shared);
  const DepthwiseWeightParams& q = p.sums;
  const DepthwiseConv2dShape& s = q.shape;
  const int channels = int(s.channels), height = int(s.out_height), width = int(s.out_width);
  const PlaneSlab patches(q, tile);

  float weights[kTaps] = {}, check = 0;
  const PlanePlace start = patches.place(patches.share.first);  // its plane is that of all patches
  const int channel = start.first_plane + start.plane;
  const T* weight = static_cast<const T*>(p.weight.data) + channel * p.weight.stride_channel;
  if (start.exists) load_weights<kernel>(weight, p.weight, weights, check);

  float sums[kTaps + 1] = {};  // the bias last
  for (uint32_t patch = patches.share.first; patch < patches.share.last; ++patch) {
    const PlanePlace at = patches.place(patch);
    PlaneSource<T> grads{nullptr, int(s.height), int(s.width), at.row - int(s.pad_top),
                         at.column - int(s.pad_left)};
    grads.plane = stage_planes(static_cast<const T*>(q.input), s.batch, channels, grads.height,
                               grads.width, q.planes, at, at.first_row - int(s.pad_top), shared);
    commit_copies();
    const int64_t plane = (at.image * channels + channel) * height * width;
    float inputs[tile.rows][tile.columns];  // on their way while the sources are
    load_targets(static_cast<const T*>(q.grad_output) + plane, height, width, at, inputs);
    wait_copies<0>();
    __syncthreads();
    float results[tile.rows][tile.columns] = {};
#pragma unroll
    for (int r = 0; r < tile.source_rows; ++r) {
      const int h = grads.row + r;
      float source[tile.source_columns];
      load_row(grads.plane + h * grads.width, grads.column, grads.width,
               at.exists && h >= 0 && h < grads.height && at.row < height, source);
#pragma unroll
      for (int i = 0; i < tile.rows; ++i) {
        const int tap_row = r - i;
        if (tap_row < 0 || tap_row >= kernel) continue;
#pragma unroll
        for (int tap_column = 0; tap_column < kernel; ++tap_column) {
          const int tap = tap_row * kernel + tap_column;
#pragma unroll
          for (int j = 0; j < tile.columns; ++j) {
            const float grad = source[j + tap_column];
            results[i][j] += grad * weights[tap];
            sums[tap] += grad * inputs[i][j];
            if (tap_row == kMiddle && tap_column == kMiddle) sums[kTaps] += grad;
          }
        }
      }
    }
    if (at.exists && at.row < height && at.column < width) {
      if (check != 0) {  // NaN: not all weights are finite
#pragma unroll
        for (int i = 0; i < tile.rows * tile.columns; ++i) (&results[0][0])[i] = 0;
        sum_plane_inside<kernel, 1, -1>(grads, weight, p.weight, results);
      }
      store_rows(static_cast<T*>(p.grad_input) + plane, height, width, at.row, at.column, results);
    }
    __syncthreads();  // before the next sources
  }
  write_sums<T, kTaps, true>(q, patches, sums, reinterpret_cast<float*>(shared));
}

}  // namespace fastconv::cuda
