// The backward pass of activations on a GPU: memory bound, a pack of 16 bytes a thread.
#pragma once

#include "activation_backward.h"
#include "pack.cuh"

namespace fastconv::cuda {

template <int dtype, int width>
__global__ void __launch_bounds__(kActivationThreads)
    activation_backward_elementwise(const ActivationBackwardParams p) {
  using T = element_t<dtype>;
  using A = accumulate_t<T>;
  const int64_t at = (int64_t(blockIdx.x) * kActivationThreads + threadIdx.x) * width;
  if (at >= p.elements) return;
  A g[width], z[width];
  load_wide<width>(static_cast<const T*>(p.grad_output) + at, g, p.elements - at);
  load_wide<width>(static_cast<const T*>(p.z) + at, z, p.elements - at);
  dispatch_activation(p.activation, [&](auto act) {
    using Act = decltype(act);
#pragma unroll
    for (int i = 0; i < width; ++i) g[i] = Act::backward(Number<A>{g[i]}, Number<A>{z[i]}).value;
  });
  store_narrow<width>(static_cast<T*>(p.grad_input) + at, g, p.elements - at);
}

template <int dtype, int width>
__global__ void __launch_bounds__(kActivationThreads)
    activation_backward_from_mask(const ActivationBackwardParams p) {
  using T = element_t<dtype>;
  const int64_t at = (int64_t(blockIdx.x) * kActivationThreads + threadIdx.x) * width;
  if (at >= p.elements) return;
  accumulate_t<T> g[width];
  load_wide<width>(static_cast<const T*>(p.grad_output) + at, g, p.elements - at);
  const unsigned bits = unsigned(p.mask[at / 8]) >> at % 8;
#pragma unroll
  for (int i = 0; i < width; ++i) g[i] = bits >> i & 1 ? g[i] : 0;
  store_narrow<width>(static_cast<T*>(p.grad_input) + at, g, p.elements - at);
}

}  // namespace fastconv::cuda
