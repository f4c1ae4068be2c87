// Depthwise convolution of stride 1 with a window of any size, on CUDA cores: a thread keeps
// sixteen sources of a row in registers and goes along the window's row eight taps at a time. Taps
// that meet no source of its tile are left out: most of them where the map is no larger than the
// window.
#pragma once

#include "depthwise_conv2d_any.cuh"
#include "pack.cuh"

namespace fastconv::cuda {

// A block's patch, and the thread's tile in it.
struct WindowPlace {
  int64_t image;
  int first_channel, plane;
  int first_row, row, column;  // of the block's targets; of the thread's, row from the first
};

FASTCONV_INLINE WindowPlace window_place(const WindowTiles& t) {
  WindowPlace at;
  uint32_t patch = blockIdx.x, thread = threadIdx.x;
  at.column = take(thread, t.across) * kWindowColumns;
  at.row = take(thread, t.down) * kWindowRows;
  at.plane = thread;
  at.first_row = take(patch, t.bands) * t.down.divisor * kWindowRows;
  at.first_channel = take(patch, t.groups) * t.planes;
  at.image = patch;
  return at;
}

// Puts the planes' weights into shared memory, (plane, row, column), rows of whole chunks; whether
// all are finite.
template <class T>
FASTCONV_INLINE bool stage_window(const DepthwiseParams& p, const WindowPlace& at, float* to) {
  const int columns = p.window.chunks * kWindowTaps, of_plane = p.window.weights(p.shape.kernel_h);
  bool finite = true;
  for (int i = threadIdx.x; i < p.window.planes * of_plane; i += kWindowThreads) {
    const int channel = at.first_channel + i / of_plane;
    const int row = i % of_plane / columns, column = i % columns;
    float weight = 0;
    if (channel < p.shape.out_channels() && column < p.shape.kernel_w) {
      weight = widen(static_cast<const T*>(
          p.weight.data)[channel * p.weight.stride_channel + row * p.weight.stride_h +
                         column * p.weight.stride_w]);
    }
    finite &= weight - weight == 0;
    to[i] = weight;
  }
  return finite;
}

// Puts the planes' sources there, (plane, row, column), zeros for the padding: neighbours read
// neighbours in memory.
template <class T>
FASTCONV_INLINE void stage_sources(const DepthwiseParams& p, const WindowPlace& at, float* to) {
  const WindowTiles& t = p.window;
  const DepthwiseConv2dShape& s = p.shape;
  const DepthwiseStrides by = depthwise_strides(s.layout, s.channels, s.height * s.width);
  const bool nhwc = s.layout == Layout::kNHWC;
  const int planes = t.planes, all = planes * t.sources(), multiplier = int(s.multiplier);
  for (int i = threadIdx.x; i < all; i += kWindowThreads) {
    uint32_t pixel = nhwc ? i / planes : i;
    const int column = take(pixel, t.pitch);
    const int row = nhwc ? pixel : pixel % t.source_rows;
    const int plane = nhwc ? i % planes : pixel / t.source_rows;
    const int64_t h = at.first_row + row - s.pad_top, w = column - s.pad_left;
    const int channel = at.first_channel + plane;
    float value = 0;
    if (h >= 0 && h < s.height && w >= 0 && w < s.width && channel < s.out_channels()) {
      value = widen(
          static_cast<const T*>(p.source)[at.image * by.image + channel / multiplier * by.channel +
                                          (h * s.width + w) * by.pixel]);
    }
    to[plane * t.sources() + row * int(t.pitch.divisor) + column] = value;
  }
}

FASTCONV_INLINE void load_eight(const float* from, float* to) {
  load_wide<4>(from, to, 4);
  load_wide<4>(from + 4, to + 4, 4);
}

// Adds `taps` taps of a row of the window.
FASTCONV_INLINE void add_taps(const float (&sources)[kWindowColumns + kWindowTaps],
                              const float (&weights)[kWindowTaps], int taps,
                              float (&sums)[kWindowColumns]) {
#pragma unroll
  for (int tap = 0; tap < kWindowTaps; ++tap) {
    if (tap >= taps) break;
#pragma unroll
    for (int j = 0; j < kWindowColumns; ++j) sums[j] += sources[j + tap] * weights[tap];
  }
}

template <int dtype>
__global__ void __launch_bounds__(kWindowThreads, 3)
    depthwise_conv2d_window(const DepthwiseParams p) {
  using T = element_t<dtype>;
  FASTCONV_SHARED(shared);
  const WindowTiles& t = p.window;
  const DepthwiseConv2dShape& s = p.shape;
  const WindowPlace at = window_place(t);
  const int kernel_h = int(s.kernel_h), kernel_w = int(s.kernel_w), pitch = t.pitch.divisor;
  const int pad_left = int(s.pad_left), width = int(s.width);
  float* weights = reinterpret_cast<float*>(shared);
  float* sources = weights + t.planes * t.weights(kernel_h);
  stage_sources<T>(p, at, sources);
  const bool skips = __syncthreads_or(!stage_window<T>(p, at, weights));

  const int channel = at.first_channel + at.plane, row = at.first_row + at.row;
  if (at.plane >= t.planes || channel >= s.out_channels() || row >= s.out_height) return;
  const int64_t out_width = s.out_width;
  const DepthwiseStrides to =
      depthwise_strides(s.layout, s.out_channels(), s.out_height * out_width);
  T* target = static_cast<T*>(p.target) + at.image * to.image + channel * to.channel +
              (row * out_width + at.column) * to.pixel;
  const float bias = p.bias ? widen(static_cast<const T*>(p.bias)[channel]) : 0;
  if (skips) {  // an infinite weight times the padding's zeros would be NaN
#pragma unroll 1
    for (int i = 0; i < kWindowRows * kWindowColumns; ++i) {
      const int down = i / kWindowColumns, across = i % kWindowColumns;
      if (row + down >= s.out_height || at.column + across >= out_width) continue;
      float sum = bias + depthwise_window<T>(p, at.image, channel, row + down, at.column + across);
      activate(p.activation, &sum, 1);
      target[(down * out_width + across) * to.pixel] = narrow<T>(sum);
    }
    return;
  }

  sources += at.plane * t.sources() + at.row * pitch + at.column;
  weights += at.plane * t.weights(kernel_h);

  float sums[kWindowRows][kWindowColumns];
#pragma unroll
  for (int i = 0; i < kWindowRows * kWindowColumns; ++i) (&sums[0][0])[i] = bias;
  // The chunks whose taps meet the image.
  constexpr int kReach = kWindowColumns + kWindowTaps - 2;
  const int first = max_of(pad_left - at.column - kReach + kWindowTaps - 1, 0) / kWindowTaps;
  const int reached = max_of(width + pad_left - at.column + kWindowTaps - 1, 0) / kWindowTaps;
  const int last = min_of(t.chunks, reached);
#pragma unroll 1
  for (int r = 0; r < kernel_h + kWindowRows - 1; ++r) {
    const int64_t h = row + r - s.pad_top;
    if (h < 0 || h >= s.height) continue;
    const float* from = sources + r * pitch + first * kWindowTaps;
    float window[kWindowColumns + kWindowTaps];
    load_eight(from, window);
#pragma unroll 1
    for (int chunk = first; chunk < last; ++chunk) {
      from += kWindowTaps;
      load_eight(from, window + kWindowTaps);
      const int taps = kernel_w - chunk * kWindowTaps;
#pragma unroll
      for (int i = 0; i < kWindowRows; ++i) {
        if (r - i < 0 || r - i >= kernel_h) continue;
        float weight[kWindowTaps];
        load_eight(weights + ((r - i) * t.chunks + chunk) * kWindowTaps, weight);
        if (taps >= kWindowTaps) {
          add_taps(window, weight, kWindowTaps, sums[i]);
        } else {
          add_taps(window, weight, taps, sums[i]);
        }
      }
#pragma unroll
      for (int i = 0; i < kWindowColumns; ++i) window[i] = window[i + kWindowTaps];
    }
  }

  activate(p.activation, &sums[0][0], kWindowRows * kWindowColumns);
#pragma unroll
  for (int i = 0; i < kWindowRows; ++i) {
    if (row + i >= s.out_height) break;
#pragma unroll
    for (int j = 0; j < kWindowColumns; ++j) {
      if (at.column + j < out_width) {
        target[(i * out_width + j) * to.pixel] = narrow<T>(sums[i][j]);
      }
    }
  }
}

}  // namespace fastconv::cuda
