// Local response normalisation on a GPU, each element of a tensor read once from memory.
//   forward:  y[c] = x[c] s[c]^-beta,  s[c] = k + scale * sum of x[j]^2, j in [c - before, c +
//   after] backward: dx[c] = g[c] s[c]^-beta - 2 scale beta x[c] * sum of t[j], j in [c - after, c
//   + before],
//             t[j] = g[j] x[j] s[j]^(-beta - 1): s is computed again, so y is not read
#pragma once

#include "local_response_norm.h"
#include "pack.cuh"

namespace fastconv::cuda {

// s^-beta and s^(-beta - 1); two special functions for the beta of the paper.
template <class A>
struct Powers {
  A power, over_s;
};

template <bool three_quarters>
FASTCONV_INLINE Powers<float> inverse_powers(float s, double beta) {
  if constexpr (three_quarters) {
    const float r = rsqrtf(s), power = r * approx_sqrt(r);
    return {power, power * r * r};
  }
  const float power = approx_pow(s, -float(beta));
  return {power, approx_pow(s, -float(beta) - 1)};
}
template <bool>
FASTCONV_INLINE Powers<double> inverse_powers(double s, double beta) {
  const double power = pow(s, -beta);
  return {power, power / s};
}

// Channels first: a thread walks down the channels of a few pixels, the window in registers.
template <class T>
struct NormColumn {
  int64_t offset;       // of the first pixel in channel 0
  int64_t first, last;  // channels whose results the thread writes
  bool inside;
};

template <class T, int width>
FASTCONV_INLINE NormColumn<T> norm_column(const LocalResponseNormParams& p) {
  const int64_t packs = p.pixels / width;
  const int64_t tiles = div_up<int64_t>(packs, kNormThreads);
  const int64_t chunks = gridDim.x / (p.batch * tiles);
  const int64_t chunk = div_up(p.channels, chunks);
  const int64_t tile = blockIdx.x % tiles, image = blockIdx.x / tiles % p.batch;
  const int64_t first = blockIdx.x / (tiles * p.batch) * chunk;
  const int64_t pack = tile * kNormThreads + threadIdx.x;
  return {image * p.channels * p.pixels + pack * width, first, min_of(first + chunk, p.channels),
          pack < packs};
}

template <int width, class T>
FASTCONV_INLINE void load_channel(const LocalResponseNormParams& p, const void* from,
                                  int64_t offset, int64_t channel, float* to) {
  if (channel >= 0 && channel < p.channels) {
    load_wide<width>(static_cast<const T*>(from) + offset + channel * p.pixels, to, width);
    return;
  }
#pragma unroll
  for (int i = 0; i < width; ++i) to[i] = 0;
}

template <int count, int width>
FASTCONV_INLINE void shift(float (&ring)[count][width]) {
#pragma unroll
  for (int j = 0; j + 1 < count; ++j) {
#pragma unroll
    for (int i = 0; i < width; ++i) ring[j][i] = ring[j + 1][i];
  }
}

template <int dtype, int width, int window, int three_quarters>
__global__ void __launch_bounds__(kNormThreads)
    local_response_norm_nchw(const LocalResponseNormParams p) {
  using T = element_t<dtype>;
  constexpr int kBefore = window / 2, kAfter = (window - 1) / 2;
  const NormColumn<T> column = norm_column<T, width>(p);
  if (!column.inside) return;
  const float scale = float(p.scale), k = float(p.k);
  float x[window][width];  // channels c - kBefore to c + kAfter
#pragma unroll
  for (int j = 1; j < window; ++j) {
    load_channel<width, T>(p, p.input, column.offset, column.first - kBefore + j - 1, x[j]);
  }
#pragma unroll window
  for (int64_t c = column.first; c < column.last; ++c) {
    shift(x);
    load_channel<width, T>(p, p.input, column.offset, c + kAfter, x[window - 1]);
    float y[width];
#pragma unroll
    for (int i = 0; i < width; ++i) {
      float sum = 0;
#pragma unroll
      for (int j = 0; j < window; ++j) sum += x[j][i] * x[j][i];
      y[i] = x[kBefore][i] * inverse_powers<three_quarters != 0>(k + scale * sum, p.beta).power;
    }
    store_narrow<width>(static_cast<T*>(p.output) + column.offset + c * p.pixels, y, width);
  }
}

template <int dtype, int width, int window, int three_quarters>
__global__ void __launch_bounds__(kNormThreads)
    local_response_norm_backward_nchw(const LocalResponseNormParams p) {
  using T = element_t<dtype>;
  constexpr int kBefore = window / 2, kAfter = (window - 1) / 2;
  const NormColumn<T> column = norm_column<T, width>(p);
  if (!column.inside) return;
  const float scale = float(p.scale), k = float(p.k), twice = 2 * scale * float(p.beta);
  // With x up to channel m: t up to j = m - kAfter, and the result of j - kBefore.
  float x[window][width] = {}, t[window][width] = {}, direct[kBefore + 1][width] = {};
#pragma unroll window
  for (int64_t m = column.first - window + 1; m < column.last + window - 1; ++m) {
    const int64_t j = m - kAfter, c = j - kBefore;
    shift(x), shift(t), shift(direct);
    load_channel<width, T>(p, p.input, column.offset, m, x[window - 1]);
    float g[width];
    load_channel<width, T>(p, p.grad_output, column.offset, j, g);
    const bool inside = j >= 0 && j < p.channels;
    float result[width];
#pragma unroll
    for (int i = 0; i < width; ++i) {
      float sum = 0;
#pragma unroll
      for (int n = 0; n < window; ++n) sum += x[n][i] * x[n][i];
      const float s = k + scale * sum;
      const Powers<float> powers = inverse_powers<three_quarters != 0>(s, p.beta);
      direct[kBefore][i] = g[i] * powers.power;
      t[window - 1][i] = inside ? g[i] * x[kBefore][i] * powers.over_s : 0;
      float all = 0;
#pragma unroll
      for (int n = 0; n < window; ++n) all += t[n][i];
      result[i] = direct[0][i] - twice * x[0][i] * all;
    }
    if (c < column.first) continue;
    store_narrow<width>(static_cast<T*>(p.output) + column.offset + c * p.pixels, result, width);
  }
}

// Channels last: a thread has a pack of channels of one pixel, and the packs on either side, which
// its neighbours have just brought into L1.
template <class T>
FASTCONV_INLINE void load_three_packs(const LocalResponseNormParams& p, const void* from,
                                      int64_t at, float* to) {
  constexpr int kPack = kWide<T>;
  const int64_t channel = remainder_of(at, p.channels);
  const T* middle = static_cast<const T*>(from) + at;
#pragma unroll
  for (int i = 0; i < 3 * kPack; ++i) to[i] = 0;
  if (channel > 0) load_wide<kPack>(middle - kPack, to, kPack);
  load_wide<kPack>(middle, to + kPack, kPack);
  if (channel + kPack < p.channels) load_wide<kPack>(middle + kPack, to + 2 * kPack, kPack);
}

template <int dtype, int window, int three_quarters, int known_channels = 0>
__global__ void __launch_bounds__(kNormThreads)
    local_response_norm_nhwc(const LocalResponseNormParams params) {
  const LocalResponseNormParams& p = with_channels<known_channels>(params);
  using T = element_t<dtype>;
  constexpr int kPack = kWide<T>, kBefore = window / 2;
  const int64_t at = (int64_t(blockIdx.x) * kNormThreads + threadIdx.x) * kPack;
  if (at >= p.batch * p.channels * p.pixels) return;
  float x[3 * kPack];
  load_three_packs<T>(p, p.input, at, x);
  const float scale = float(p.scale), k = float(p.k);
  float y[kPack];
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    float sum = 0;
#pragma unroll
    for (int j = 0; j < window; ++j) {
      const float value = x[kPack + i - kBefore + j];
      sum += value * value;
    }
    y[i] = x[kPack + i] * inverse_powers<three_quarters != 0>(k + scale * sum, p.beta).power;
  }
  store_narrow<kPack>(static_cast<T*>(p.output) + at, y, kPack);
}

template <int dtype, int window, int three_quarters, int known_channels = 0>
__global__ void __launch_bounds__(kNormThreads)
    local_response_norm_backward_nhwc(const LocalResponseNormParams params) {
  const LocalResponseNormParams& p = with_channels<known_channels>(params);
  using T = element_t<dtype>;
  constexpr int kPack = kWide<T>, kBefore = window / 2, kAfter = (window - 1) / 2;
  const int64_t at = (int64_t(blockIdx.x) * kNormThreads + threadIdx.x) * kPack;
  if (at >= p.batch * p.channels * p.pixels) return;
  float x[3 * kPack], g[3 * kPack];
  load_three_packs<T>(p, p.input, at, x);
  load_three_packs<T>(p, p.grad_output, at, g);
  const float scale = float(p.scale), k = float(p.k), twice = 2 * scale * float(p.beta);
  const int64_t first = remainder_of(at, p.channels);
  float t[kPack + window - 1], result[kPack];  // t from kAfter channels before the pack on
#pragma unroll
  for (int j = 0; j < kPack + window - 1; ++j) {
    const int middle = kPack - kAfter + j;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < window; ++n) {
      const float value = x[middle - kBefore + n];
      sum += value * value;
    }
    const float s = k + scale * sum;
    const Powers<float> powers = inverse_powers<three_quarters != 0>(s, p.beta);
    const int64_t channel = first - kAfter + j;
    t[j] = channel >= 0 && channel < p.channels ? g[middle] * x[middle] * powers.over_s : 0;
    if (j >= kAfter && j < kAfter + kPack) result[j - kAfter] = g[middle] * powers.power;
  }
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    float all = 0;
#pragma unroll
    for (int n = 0; n < window; ++n) all += t[i + n];
    result[i] -= twice * x[kPack + i] * all;
  }
  store_narrow<kPack>(static_cast<T*>(p.output) + at, result, kPack);
}

// Anything: a thread an element, the window from the caches.
template <class T>
struct NormAny {
  const LocalResponseNormParams& p;
  int64_t offset, stride;  // element `offset + channel * stride`

  FASTCONV_INLINE accumulate_t<T> read(const void* from, int64_t channel) const {
    return widen(static_cast<const T*>(from)[offset + channel * stride]);
  }
  FASTCONV_INLINE accumulate_t<T> s(int64_t channel) const {
    using A = accumulate_t<T>;
    const int64_t first = max_of<int64_t>(channel - p.before, 0);
    const int64_t last = min_of<int64_t>(channel + p.after, p.channels - 1);
    A sum = 0;
    for (int64_t j = first; j <= last; ++j) {
      const A x = read(p.input, j);
      sum += x * x;
    }
    return A(p.k) + A(p.scale) * sum;
  }
};

template <class T>
FASTCONV_INLINE NormAny<T> norm_any(const LocalResponseNormParams& p, int64_t at,
                                    int64_t& channel) {
  if (p.layout == Layout::kNHWC) {
    channel = remainder_of(at, p.channels);
    return {p, at - channel, 1};
  }
  channel = at / p.pixels % p.channels;
  return {p, at - channel * p.pixels, p.pixels};
}

template <int dtype>
__global__ void __launch_bounds__(kNormThreads)
    local_response_norm_any(const __grid_constant__ LocalResponseNormParams p) {
  using T = element_t<dtype>;
  const int64_t at = int64_t(blockIdx.x) * kNormThreads + threadIdx.x;
  if (at >= p.batch * p.channels * p.pixels) return;
  int64_t c;
  const NormAny<T> line = norm_any<T>(p, at, c);
  const auto y = line.read(p.input, c) * inverse_powers<false>(line.s(c), p.beta).power;
  static_cast<T*>(p.output)[at] = narrow<T>(y);
}

template <int dtype>
__global__ void __launch_bounds__(kNormThreads)
    local_response_norm_backward_any(const __grid_constant__ LocalResponseNormParams p) {
  using T = element_t<dtype>;
  using A = accumulate_t<T>;
  const int64_t at = int64_t(blockIdx.x) * kNormThreads + threadIdx.x;
  if (at >= p.batch * p.channels * p.pixels) return;
  int64_t c;
  const NormAny<T> line = norm_any<T>(p, at, c);
  A all = 0;
  const int64_t last = min_of<int64_t>(c + p.before, p.channels - 1);
  for (int64_t j = max_of<int64_t>(c - p.after, 0); j <= last; ++j) {
    const Powers<A> powers = inverse_powers<false>(line.s(j), p.beta);
    all += line.read(p.grad_output, j) * line.read(p.input, j) * powers.over_s;
  }
  const A direct = line.read(p.grad_output, c) * inverse_powers<false>(line.s(c), p.beta).power;
  const A twice = 2 * A(p.scale) * A(p.beta);
  static_cast<T*>(p.output)[at] = narrow<T>(direct - twice * line.read(p.input, c) * all);
}

}  // namespace fastconv::cuda
