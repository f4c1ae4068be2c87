// The weight gradient of a depthwise convolution of contiguous tensors: a block goes over the
// patches of its planes in a slab of images, a thread keeps k x k sums of a tile of one plane.
#pragma once

#include "depthwise_conv2d_planes.cuh"
#include "depthwise_conv2d_weight_inside.cuh"

namespace fastconv::cuda {

// A thread's targets; zeros where there are none.
template <class T, int rows, int columns>
FASTCONV_INLINE void load_targets(const T* plane, int height, int width, const PlanePlace& at,
                                  float (&targets)[rows][columns]) {
  const bool aligned = width % columns == 0;
#pragma unroll
  for (int i = 0; i < rows; ++i) {
    const bool exists = at.exists && at.row + i < height;
    const T* row = plane + int64_t(at.row + i) * width;
    if (aligned) {
#pragma unroll
      for (int j = 0; j < columns; ++j) targets[i][j] = 0;
      if (exists && at.column < width) load_wide<columns>(row + at.column, targets[i], columns);
    } else {
      load_row(row, at.column, width, exists, targets[i]);
    }
  }
}

constexpr int kSumLanes = 8;  // threads that add up what a plane's tiles bring to a sum

// The patches of a slab: bands and images of one group of planes.
struct PlaneSlab {
  const PlaneTiles& tiles;
  DepthwiseTile tile;
  uint32_t slab, group;
  PatchShare share;
  int channels;

  FASTCONV_INLINE PlaneSlab(const DepthwiseWeightParams& p, const DepthwiseTile& tile)
      : tiles(p.planes), tile(tile), slab(blockIdx.x), channels(int(p.shape.channels)) {
    group = take(slab, tiles.groups);
    share = share_of(tiles.patches / tiles.groups.divisor, p.slabs, slab);
  }

  FASTCONV_INLINE PlanePlace place(uint32_t patch) const {
    const uint32_t band = take(patch, tiles.bands);
    patch = (patch * tiles.groups.divisor + group) * tiles.bands.divisor + band;
    return plane_place(tiles, tile, patch, channels);
  }
};

// Writes the sums of a slab, those of the taps and the bias's: over the tiles of a plane, always in
// the same order. turned: those of a convolution with the weights turned around.
template <class T, int taps, bool turned>
__device__ __forceinline__ void write_sums(const DepthwiseWeightParams& p, const PlaneSlab& patches,
                                           const float (&sums)[taps + 1], float* parts) {
  const PlaneTiles& t = p.planes;
  const int channels = patches.channels;
  bool is_nan = false;
#pragma unroll
  for (int i = 0; i <= taps; ++i) {
    is_nan |= sums[i] != sums[i];
    parts[i * kTileThreads + threadIdx.x] = sums[i];
  }
  const bool skips = __syncthreads_or(is_nan);
  const int tiles = t.across.divisor * t.down.divisor, lane = threadIdx.x % kSumLanes;
  float* partial = static_cast<float*>(p.partial) + patches.slab * (taps + 1) * int64_t(channels);
  const int count = t.planes * (taps + 1);
  for (int i = threadIdx.x / kSumLanes; i < div_up(count, 32) * 32; i += kTileThreads / kSumLanes) {
    const int tap = i / t.planes, plane = i % t.planes;
    const int channel = patches.group * t.planes + plane;
    const bool exists = i < count && channel < channels;
    float sum = 0;
    for (int j = lane; exists && j < tiles; j += kSumLanes) {
      sum += parts[tap * kTileThreads + plane * tiles + j];
    }
#pragma unroll
    for (int j = kSumLanes / 2; j > 0; j /= 2) sum += __shfl_xor_sync(~0u, sum, j);
    if (lane > 0 || !exists) continue;
    if (skips && tap < taps) {
      sum = 0;
      for (uint32_t patch = patches.share.first; patch < patches.share.last; ++patch) {
        const PlanePlace at = patches.place(patch);
        const int rows = t.down.divisor * patches.tile.rows;
        sum += weight_sum_inside<T>(
            p, channel, tap,
            {at.image, at.image + 1, at.first_row, at.first_row + rows, 0, p.shape.out_width});
      }
    }
    const int to = turned && tap < taps ? taps - 1 - tap : tap;
    partial[int64_t(to) * channels + channel] = sum;
  }
}

template <int dtype, int kernel, int stride>
__global__ void __launch_bounds__(kTileThreads, plane_blocks(kernel))
    depthwise_conv2d_weight_nchw_tile(const DepthwiseWeightParams p) {
  using T = element_t<dtype>;
  constexpr DepthwiseTile tile = plane_tile(kernel, stride, -1);
  constexpr int kTaps = kernel * kernel;
  FASTCONV_SHARED(shared);
  const DepthwiseConv2dShape& s = p.shape;
  const PlaneTiles& t = p.planes;
  const int channels = int(s.channels), height = int(s.height), width = int(s.width);
  const int out_height = int(s.out_height), out_width = int(s.out_width);

  const PlaneSlab patches(p, tile);
  float sums[kTaps + 1] = {};  // the bias last
  for (uint32_t patch = patches.share.first; patch < patches.share.last; ++patch) {
    const PlanePlace at = patches.place(patch);
    const T* plane = stage_planes(static_cast<const T*>(p.input), s.batch, channels, height, width,
                                  t, at, at.first_row * stride - int(s.pad_top), shared);
    commit_copies();
    float targets[tile.rows][tile.columns];  // on their way while the sources are
    load_targets(static_cast<const T*>(p.grad_output) +
                     (at.image * channels + at.first_plane + at.plane) * out_height * out_width,
                 out_height, out_width, at, targets);
    wait_copies<0>();
    __syncthreads();
    const int top = at.row * stride - int(s.pad_top), left = at.column * stride - int(s.pad_left);
#pragma unroll
    for (int r = 0; r < tile.source_rows; ++r) {
      float source[tile.source_columns];
      load_row(plane + (top + r) * width, left, width,
               at.exists && top + r >= 0 && top + r < height && at.row < out_height, source);
#pragma unroll
      for (int i = 0; i < tile.rows; ++i) {
        const int tap_row = r - i * stride;
        if (tap_row < 0 || tap_row >= kernel) continue;
#pragma unroll
        for (int tap_column = 0; tap_column < kernel; ++tap_column) {
#pragma unroll
          for (int j = 0; j < tile.columns; ++j) {
            sums[tap_row * kernel + tap_column] += source[j * stride + tap_column] * targets[i][j];
          }
        }
      }
    }
#pragma unroll
    for (int i = 0; i < tile.rows * tile.columns; ++i) sums[kTaps] += (&targets[0][0])[i];
    __syncthreads();  // before the next sources
  }

  write_sums<T, kTaps, false>(p, patches, sums, reinterpret_cast<float*>(shared));
}

}  // namespace fastconv::cuda
