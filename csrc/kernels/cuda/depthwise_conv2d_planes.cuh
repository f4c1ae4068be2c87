// Patches of contiguous tensors: planes, or bands of rows, lie in shared memory as they lie in
// global memory, so that any width is copied 16 bytes at a time; padding is seen to where they are
// read.
#pragma once

#include "async.cuh"
#include "depthwise_conv2d.h"
#include "pack.cuh"

namespace fastconv::cuda {

// A block's patch, and the thread's tile in it.
struct PlanePlace {
  int64_t image;
  int first_plane;  // of the block
  int plane;        // of the thread, from the first
  int row, column;  // of its first target
  int first_row;    // of the block's targets
  bool exists;
};

FASTCONV_INLINE PlanePlace plane_place(const PlaneTiles& t, const DepthwiseTile& tile,
                                       uint32_t patch, int channels) {
  PlanePlace at;
  uint32_t thread = threadIdx.x;
  at.column = take(thread, t.across) * tile.columns;
  const int row = take(thread, t.down) * tile.rows;
  at.first_row = take(patch, t.bands) * t.down.divisor * tile.rows;
  at.first_plane = take(patch, t.groups) * t.planes;
  at.row = at.first_row + row;
  at.plane = thread;
  at.image = patch;
  at.exists = at.plane < t.planes && at.first_plane + at.plane < channels;
  return at;
}

// Starts the copies of a patch's sources, from the row that its first target meets on, and gives
// where the thread's plane lies in shared memory, as if it were whole.
template <class T>
FASTCONV_INLINE const T* stage_planes(const T* source, int64_t batch, int channels, int height,
                                      int width, const PlaneTiles& t, const PlanePlace& at,
                                      int first_row, unsigned char* shared) {
  const bool whole = t.bands.divisor == 1;
  const int top = whole ? 0 : min_of(max_of(first_row, 0), height);
  const int end = whole ? height : min_of(max_of(first_row + t.source_rows, top), height);
  const int planes = min_of(t.planes, channels - at.first_plane);
  const int64_t plane = int64_t(height) * width, offset = int64_t(top) * width;
  const int64_t first = (at.image * channels + at.first_plane) * plane + offset;
  const int64_t count = (planes - 1) * plane + int64_t(end - top) * width;
  // Whole packs, also where they begin before the run or go on after it, but for the tensor's end.
  const int head = int(first % kWide<T>);
  const T* from = source + (first - head);
  T* to = reinterpret_cast<T*>(shared);
  const int64_t left = batch * channels * plane - (first - head);
  const int end_of_run = int(head + count);
  const int readable = int(min_of<int64_t>(left, end_of_run + kWide<T>));
  for (int i = threadIdx.x * kWide<T>; i < end_of_run; i += kTileThreads * kWide<T>) {
    if (i + kWide<T> <= readable) {
      copy_async(to + i, from + i, true);
    } else {
      copy_part_async(to + i, from + i, (readable - i) * int(sizeof(T)));
    }
  }
  return to + head - offset + at.plane * plane;
}

// A row of sources, zeros for the padding: data is where column 0 lies or would.
template <int count, class T>
FASTCONV_INLINE void load_row(const T* data, int column, int width, bool exists,
                              float (&to)[count]) {
#pragma unroll
  for (int c = 0; c < count; ++c) {
    const bool inside = exists && unsigned(column + c) < unsigned(width);
    to[c] = inside ? widen(data[column + c]) : 0;
  }
}

}  // namespace fastconv::cuda
