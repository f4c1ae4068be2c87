// Residual add on a GPU: memory bound, so each thread moves a few packs of 16 bytes and does little
// else.
#pragma once

#include "../activation_backward.h"
#include "pack.cuh"
#include "residual_add.h"

namespace fastconv::cuda {

// The bits of neighbouring lanes, `width` of each, as a byte of the first of every 8 / width.
template <int width>
__device__ __forceinline__ void store_bits(uint8_t* mask, int64_t at, unsigned bits) {
#pragma unroll
  for (int lanes = 1; lanes < 8 / width; lanes *= 2) {
    bits |= __shfl_down_sync(~0u, bits, lanes) << (lanes * width);
  }
  if (at % 8 == 0) mask[at / 8] = uint8_t(bits);
}

template <int dtype, int width, bool with_mask>
__device__ __forceinline__ void add_same_size(const ResidualAddParams& p) {
  using T = element_t<dtype>;
  using A = accumulate_t<T>;
  const int64_t elements = p.batch * p.channels * p.height * p.width;
  const int64_t first = (int64_t(blockIdx.x) * kAddThreads * kAddPacks + threadIdx.x) * width;
  const T* input = static_cast<const T*>(p.input);
  const T* residual = static_cast<const T*>(p.residual);
  T* output = static_cast<T*>(p.output);

  // Lanes that join their bits stay together; beyond the elements their bits are zeros.
  const int64_t end = with_mask ? 8 * mask_bytes(elements) : elements;

  // All loads before the first use: as many requests in flight.
  Pack<T, width> a[kAddPacks], b[kAddPacks];
#pragma unroll
  for (int i = 0; i < kAddPacks; ++i) {
    const int64_t at = first + int64_t(i) * kAddThreads * width;
    if (at >= end) break;
    a[i] = load_pack<width>(input + at, elements - at);
    b[i] = load_pack<width>(residual + at, elements - at);
  }
  const auto add = [&](auto act) {
    using Act = decltype(act);
#pragma unroll
    for (int i = 0; i < kAddPacks; ++i) {
      const int64_t at = first + int64_t(i) * kAddThreads * width;
      if (at >= end) break;
      A sums[width];
#pragma unroll
      for (int j = 0; j < width; ++j) {
        sums[j] = Act::forward(Number<A>{widen(a[i].values[j]) + widen(b[i].values[j])}).value;
      }
      store_narrow<width>(output + at, sums, elements - at);
      if constexpr (with_mask) {
        unsigned bits = 0;
#pragma unroll
        for (int j = 0; j < width; ++j) {
          // Of the rounded output, as the backward pass without a mask has it.
          bits |= unsigned(Act::passes(widen(narrow<T>(sums[j])))) << j;
        }
        store_bits<width>(p.mask, at, bits);
      }
    }
  };
  if constexpr (with_mask) {
    dispatch_rectifier(p.activation, add);
  } else {
    dispatch_activation(p.activation, add);
  }
}

template <int dtype, int width>
__global__ void __launch_bounds__(kAddThreads, kAddBlocks)
    residual_add_same_size(const ResidualAddParams p) {
  add_same_size<dtype, width, false>(p);
}

template <int dtype, int width>
__global__ void __launch_bounds__(kAddThreads, kAddBlocks)
    residual_add_same_size_with_mask(const ResidualAddParams p) {
  add_same_size<dtype, width, true>(p);
}

template <int dtype, int known_channels = 0, int known_residual = 0>
__global__ void __launch_bounds__(kAddThreads)
    residual_add_shortcut(const ResidualAddParams params) {
  const ResidualAddParams& p = with_channels<known_channels, known_residual>(params);
  using T = element_t<dtype>;
  using A = accumulate_t<T>;
  const int64_t at = int64_t(blockIdx.x) * kAddThreads + threadIdx.x;
  if (at >= p.batch * p.channels * p.height * p.width) return;
  int64_t n, c, h, w;
  if (p.layout == Layout::kNHWC) {
    c = at % p.channels, w = at / p.channels % p.width;
    h = at / (p.channels * p.width) % p.height, n = at / (p.channels * p.width * p.height);
  } else {
    w = at % p.width, h = at / p.width % p.height;
    c = at / (p.width * p.height) % p.channels, n = at / (p.width * p.height * p.channels);
  }
  A sum = widen(static_cast<const T*>(p.input)[at]);
  if (c < p.residual_channels) {
    const int64_t y = h * p.stride, x = w * p.stride;
    const int64_t from =
        p.layout == Layout::kNHWC
            ? ((n * p.residual_height + y) * p.residual_width + x) * p.residual_channels + c
            : ((n * p.residual_channels + c) * p.residual_height + y) * p.residual_width + x;
    sum += widen(static_cast<const T*>(p.residual)[from]);
  }
  activate(p.activation, &sum, 1);
  static_cast<T*>(p.output)[at] = narrow<T>(sum);
}

}  // namespace fastconv::cuda
