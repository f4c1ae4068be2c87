// output = activation(input + shortcut(residual)); He et al. 2015, equation 1.
// The shortcut reads every stride-th pixel of a residual with fewer channels; the missing channels
// are zero (option A of the paper). Floors: two reads and one write an element, no arithmetic
// bound.
#pragma once

#include "common/activation.h"
#include "common/types.h"
#include "variants.h"

namespace fastconv {

struct ResidualAddParams {
  const void* input;     // (batch, channels, height, width), dense in layout
  const void* residual;  // (batch, residual_channels, residual_height, residual_width), likewise
  void* output;          // as input
  uint8_t* mask;         // GPU, ReLU and ReLU6: a bit an element, as mask_bytes has it, or nullptr

  int64_t batch, channels, height, width;
  int64_t residual_channels, residual_height, residual_width;
  int64_t stride;

  Layout layout;
  DType dtype;
  Activation activation;
};

constexpr int64_t kResidualAddBlock = 8192;  // elements a unit: 32 KiB of float32 from each tensor

FASTCONV_INLINE Variant residual_add_variant(const ResidualAddParams& p) {
  const bool same_size = p.residual_channels == p.channels && p.residual_height == p.height &&
                         p.residual_width == p.width;
  if (same_size) return Variant::residual_add_same_size;
  return p.layout == Layout::kNHWC ? Variant::residual_add_shortcut_nhwc
                                   : Variant::residual_add_shortcut_nchw;
}

// Past the caches, and reads asked for in advance, where the three tensors outgrow the last cache
// (32 MiB): 16x96x56x56 float32, two threads of a Zen 5, memory touched before: 0.68 ms through the
// caches, 0.64 past them, 0.55 with both; 16x256x56x56 2.58, 2.16, 2.08. A fresh output's page
// faults hide it (3.8 ms either way). 8x48x56x56, which stays in: 0.055 through, 0.108 past.
constexpr int64_t kResidualAddStreamedBytes = 12 << 20;  // of the output

FASTCONV_INLINE bool residual_add_streams(const ResidualAddParams& p) {
  return p.batch * p.channels * p.height * p.width * size_of(p.dtype) >= kResidualAddStreamedBytes;
}

// Work comes in units that may run in any order and on any thread.
FASTCONV_INLINE int64_t residual_add_units(const ResidualAddParams& p) {
  return residual_add_variant(p) == Variant::residual_add_same_size
             ? div_up(p.batch * p.channels * p.height * p.width, kResidualAddBlock)
             : p.batch * p.height;
}

struct ResidualAddKernels {
  void (*forward)(const ResidualAddParams&, int64_t begin, int64_t end);
};

}  // namespace fastconv
