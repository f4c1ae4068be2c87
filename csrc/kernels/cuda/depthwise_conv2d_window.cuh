// Depthwise convolution of stride 1 with a window of any size or dilated, on CUDA cores: a thread
// keeps sixteen sources of a row in registers and goes along the window's row eight taps at a time.
// Taps that meet no source of its tile are left out: most of them where the map is no larger than
// the window.
#pragma once

#include "depthwise_conv2d_any.cuh"
#include "pack.cuh"

namespace fastconv::cuda {

// A block's patch, and the thread's tile in it.
struct WindowPlace {
  int64_t image;
  int first_channel, plane;
  int phase_row, phase_column;  // where the interleaved image begins
  int first_row, row, column;   // of the block's targets; of the thread's, row from the first
};

FASTCONV_INLINE WindowPlace window_place(const WindowTiles& t) {
  WindowPlace at;
  uint32_t patch = blockIdx.x, thread = threadIdx.x;
  at.column = take(thread, t.across) * kWindowColumns;
  at.row = take(thread, t.down) * kWindowRows;
  at.plane = thread;
  at.phase_column = take(patch, t.phases_across);
  at.phase_row = take(patch, t.phases_down);
  at.first_row = take(patch, t.bands) * t.down.divisor * kWindowRows;
  at.first_channel = take(patch, t.groups) * t.planes;
  at.image = patch;
  return at;
}

// Puts the planes' weights into shared memory, (plane, row, column), rows of whole chunks; whether
// all are finite.
template <class T>
FASTCONV_INLINE bool stage_window(const DepthwiseParams& p, const WindowPlace& at, float* to) {
  const int all = p.window.planes * p.window.weights(p.shape.kernel_h);
  const int out_channels = int(p.shape.out_channels()), kernel_w = int(p.shape.kernel_w);
  bool finite = true;
  for (int i = threadIdx.x; i < all; i += kWindowThreads) {
    uint32_t plane = i;
    const int column = take(plane, p.window.by_window_columns);
    const int row = take(plane, p.window.by_window_rows);
    const int channel = at.first_channel + int(plane);
    float weight = 0;
    if (channel < out_channels && column < kernel_w) {
      weight = widen(static_cast<const T*>(
          p.weight.data)[channel * p.weight.stride_channel + row * p.weight.stride_h +
                         column * p.weight.stride_w]);
    }
    finite &= weight - weight == 0;
    to[i] = weight;
  }
  return finite;
}

// Puts the planes' sources there, (plane, row, column), zeros for the padding. A warp goes along
// the rows of memory, those of one plane or of all: neighbours read neighbours, and a thread keeps
// its plane.
template <class T, bool nhwc>
FASTCONV_INLINE void stage_sources(const DepthwiseParams& p, const WindowPlace& at, float* to) {
  const WindowTiles& t = p.window;
  const DepthwiseConv2dShape& s = p.shape;
  const int pitch = t.pitch.divisor, height = int(s.height), width = int(s.width);
  const int channels = int(s.channels), out_channels = int(s.out_channels());
  const int dilation_h = int(s.dilation_h), dilation_w = int(s.dilation_w);
  const int top = at.phase_row + at.first_row * dilation_h - int(s.pad_top);
  const int lane = threadIdx.x % 32, together = nhwc ? t.planes : 1;
  const int first = lane / together, step = 32 / together;  // columns
  const int left = at.phase_column + first * dilation_w - int(s.pad_left);
  const T* image = static_cast<const T*>(p.source) + at.image * channels * height * width;
  const int lines = nhwc ? t.source_rows : t.source_rows * t.planes;
  for (int line = threadIdx.x / 32; line < lines; line += kWindowThreads / 32) {
    uint32_t plane = line;
    const int row = take(plane, t.by_source_rows), h = top + row * dilation_h;
    if (nhwc) plane = lane % together;
    const uint32_t channel = t.multiplier.quotient(at.first_channel + plane);
    const bool exists = h >= 0 && h < height && at.first_channel + int(plane) < out_channels;
    const uint32_t end = exists ? width : 0;
    const T* from = image + (nhwc ? int64_t{h} * width * channels + channel
                                  : (int64_t{channel} * height + h) * width);
    float* into = to + int(plane) * t.sources() + row * pitch;
    int w = left;
#pragma unroll 4
    for (int column = first; column < pitch; column += step, w += step * dilation_w) {
      into[column] = uint32_t(w) < end ? widen(nhwc ? from[int64_t{w} * channels] : from[w]) : 0;
    }
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
  const int dilation_h = int(s.dilation_h), dilation_w = int(s.dilation_w);
  float* weights = reinterpret_cast<float*>(shared);
  float* sources = weights + t.planes * t.weights(kernel_h);
  if (s.layout == Layout::kNHWC) {
    stage_sources<T, true>(p, at, sources);
  } else {
    stage_sources<T, false>(p, at, sources);
  }
  const bool skips = __syncthreads_or(!stage_window<T>(p, at, weights));

  const int channel = at.first_channel + at.plane;
  const int row = at.phase_row + (at.first_row + at.row) * dilation_h;
  const int column = at.phase_column + at.column * dilation_w;
  if (at.plane >= t.planes || channel >= s.out_channels() || row >= s.out_height) return;
  const int64_t out_width = s.out_width;
  const DepthwiseStrides to =
      depthwise_strides(s.layout, s.out_channels(), s.out_height * out_width);
  T* target = static_cast<T*>(p.target) + at.image * to.image + channel * to.channel +
              (row * out_width + column) * to.pixel;
  const float bias = p.bias ? widen(static_cast<const T*>(p.bias)[channel]) : 0;
  if (skips) {  // an infinite weight times the padding's zeros would be NaN
#pragma unroll 1
    for (int i = 0; i < kWindowRows * kWindowColumns; ++i) {
      const int down = i / kWindowColumns * dilation_h, across = i % kWindowColumns * dilation_w;
      if (row + down >= s.out_height || column + across >= out_width) continue;
      float sum = bias + depthwise_window<T>(p, at.image, channel, row + down, column + across);
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
  const int before = int(s.pad_left) - at.phase_column;  // pixels; then columns before the image
  const int left = div_up(max_of(before, 0), dilation_w);
  const int right = div_up(max_of(before + int(s.width), 0), dilation_w);
  const int first = max_of(left - at.column - kReach + kWindowTaps - 1, 0) / kWindowTaps;
  const int reached = max_of(right - at.column + kWindowTaps - 1, 0) / kWindowTaps;
  const int last = min_of(t.chunks, reached);
#pragma unroll 1
  for (int r = 0; r < kernel_h + kWindowRows - 1; ++r) {
    const int h = row + r * dilation_h - int(s.pad_top);
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
    if (row + i * dilation_h >= s.out_height) break;
    T* next = target;
#pragma unroll
    for (int j = 0; j < kWindowColumns; ++j) {
      if (column + j * dilation_w < out_width) *next = narrow<T>(sums[i][j]);
      next += dilation_w * to.pixel;
    }
    target += dilation_h * out_width * to.pixel;
  }
}

}  // namespace fastconv::cuda
