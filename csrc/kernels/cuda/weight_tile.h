// The weight of a 1x1 convolution as the matrix unit's kernels take it.
#pragma once

#include "../common/types.h"

namespace fastconv::cuda {

struct WeightMatrix {
  const void* data;
  int64_t outs, ins, out_stride, in_stride;  // of 16-bit elements
  bool wide;                                 // can be read 16 bytes at a time
  bool depth_last;                           // its tiles are (out, in), else (in, out)
};

FASTCONV_INLINE WeightMatrix weight_matrix(const void* data, int64_t outs, int64_t ins,
                                           int64_t out_stride, int64_t in_stride) {
  const bool aligned = reinterpret_cast<uintptr_t>(data) % 16 == 0;
  const bool rows = aligned && in_stride == 1 && out_stride % 8 == 0 && ins % 8 == 0;
  const bool columns = aligned && out_stride == 1 && in_stride % 8 == 0 && outs % 8 == 0;
  return {data, outs, ins, out_stride, in_stride, rows || columns, rows || !columns};
}

}  // namespace fastconv::cuda
