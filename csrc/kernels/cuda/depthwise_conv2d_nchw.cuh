// Depthwise convolution and its transpose of contiguous tensors: a thread sums a tile of one plane,
// its weights in registers.
#pragma once

#include "depthwise_conv2d_planes.cuh"

namespace fastconv::cuda {

// A tile's results, as widely as the rows' alignment allows.
template <class T, int rows, int columns>
FASTCONV_INLINE void store_rows(T* target, int height, int width, int row, int column,
                                const float (&sums)[rows][columns]) {
  const int unit = width % columns == 0 ? columns : width % 2 == 0 ? 2 : 1;
  target += int64_t(row) * width + column;
#pragma unroll
  for (int i = 0; i < rows; ++i) {
    if (row + i >= height) break;
    if (unit == columns) {
      if (column < width) store_narrow<columns>(target, sums[i], columns);
    } else if (unit == 2) {
#pragma unroll
      for (int j = 0; j < columns; j += 2) {
        if (column + j < width) store_narrow<2>(target + j, sums[i] + j, 2);
      }
    } else {
#pragma unroll
      for (int j = 0; j < columns; ++j) {
        if (column + j < width) target[j] = narrow<T>(sums[i][j]);
      }
    }
    target += width;
  }
}

// The part of a plane that a tile's targets meet.
template <class T>
struct PlaneSource {
  const T* plane;  // in shared memory, as if it were whole
  int height, width;
  int row, column;  // the tile's first
};

template <int kernel, int stride, int phase, class T, int rows, int columns>
FASTCONV_INLINE void sum_plane_tile(const PlaneSource<T>& s,
                                    const float (&weights)[kernel * kernel],
                                    float (&sums)[rows][columns]) {
  constexpr DepthwiseTile tile = plane_tile(kernel, stride, phase);
#pragma unroll
  for (int r = 0; r < tile.source_rows; ++r) {
    const int h = s.row + r;
    float source[tile.source_columns];
    load_row(s.plane + h * s.width, s.column, s.width, h >= 0 && h < s.height, source);
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      const int tap_row = tile_tap(tile, stride, phase, i, r);
      if (tap_row < 0 || tap_row >= kernel) continue;
#pragma unroll
      for (int tap_column = 0; tap_column < kernel; ++tap_column) {
#pragma unroll
        for (int j = 0; j < columns; ++j) {
          const int c = tile_source(tile, stride, phase, j, tap_column);
          if (c >= 0) sums[i][j] += source[c] * weights[tap_row * kernel + tap_column];
        }
      }
    }
  }
}

// The same without the taps in the padding: an infinite weight times its zeros would be NaN.
template <int kernel, int stride, int phase, class T, int rows, int columns>
FASTCONV_INLINE void sum_plane_inside(const PlaneSource<T>& s, const T* weight,
                                      const DepthwiseWeight& by, float (&sums)[rows][columns]) {
  constexpr DepthwiseTile tile = plane_tile(kernel, stride, phase);
#pragma unroll 1
  for (int tap = 0; tap < kernel * kernel; ++tap) {
    const int tap_row = tap / kernel, tap_column = tap % kernel;
    const float w = widen(weight[tap_row * by.stride_h + tap_column * by.stride_w]);
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      const int r = tile_source(tile, stride, phase, i, tap_row);
      if (r < 0 || s.row + r < 0 || s.row + r >= s.height) continue;
#pragma unroll
      for (int j = 0; j < columns; ++j) {
        const int c = tile_source(tile, stride, phase, j, tap_column);
        if (c < 0 || s.column + c < 0 || s.column + c >= s.width) continue;
        sums[i][j] += widen(s.plane[(s.row + r) * s.width + s.column + c]) * w;
      }
    }
  }
}

// A plane's weights; check is NaN then where not all are finite.
template <int kernel, class T>
FASTCONV_INLINE void load_weights(const T* weight, const DepthwiseWeight& by,
                                  float (&weights)[kernel * kernel], float& check) {
#pragma unroll
  for (int tap = 0; tap < kernel * kernel; ++tap) {
    weights[tap] = widen(weight[tap / kernel * by.stride_h + tap % kernel * by.stride_w]);
    check += weights[tap] * 0;
  }
}

template <int stride, int phase>
FASTCONV_INLINE int first_source(int target, int64_t padding, int first) {
  return phase < 0 ? target * stride - int(padding) : (target + int(padding)) / stride + first;
}

template <int dtype, int kernel, int stride, int phase>
__global__ void __launch_bounds__(kTileThreads, plane_blocks(kernel))
    depthwise_conv2d_nchw_tile(const DepthwiseParams p) {
  using T = element_t<dtype>;
  constexpr DepthwiseTile tile = plane_tile(kernel, stride, phase);
  FASTCONV_SHARED(shared);
  const DepthwiseConv2dShape& s = p.shape;
  const int channels = int(s.channels);
  const int height = int(p.target_height()), width = int(p.target_width());
  const PlanePlace at = plane_place(p.planes, tile, blockIdx.x, channels);
  PlaneSource<T> source{nullptr, int(p.source_height()), int(p.source_width()),
                        first_source<stride, phase>(at.row, s.pad_top, tile.first),
                        first_source<stride, phase>(at.column, s.pad_left, tile.first)};
  source.plane = stage_planes(
      static_cast<const T*>(p.source), s.batch, channels, source.height, source.width, p.planes, at,
      first_source<stride, phase>(at.first_row, s.pad_top, tile.first), shared);
  commit_copies();

  const bool exists = at.exists && at.row < height && at.column < width;
  const int channel = at.first_plane + at.plane;
  const T* weight = static_cast<const T*>(p.weight.data) + channel * p.weight.stride_channel;
  float weights[kernel * kernel], bias = 0, check = 0;
  if (exists) {
    if (p.bias) bias = widen(static_cast<const T*>(p.bias)[channel]);
    load_weights<kernel>(weight, p.weight, weights, check);
  }
  wait_copies<0>();
  __syncthreads();
  if (!exists) return;

  float sums[tile.rows][tile.columns];
#pragma unroll
  for (int i = 0; i < tile.rows * tile.columns; ++i) (&sums[0][0])[i] = bias;
  if (check == 0) {
    sum_plane_tile<kernel, stride, phase>(source, weights, sums);
  } else {  // NaN: not all weights are finite
    sum_plane_inside<kernel, stride, phase>(source, weight, p.weight, sums);
  }
  if (phase < 0) activate(p.activation, &sums[0][0], tile.rows * tile.columns);
  store_rows(static_cast<T*>(p.target) + (at.image * channels + channel) * height * width, height,
             width, at.row, at.column, sums);
}

}  // namespace fastconv::cuda
