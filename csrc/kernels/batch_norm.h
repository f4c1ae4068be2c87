// output = activation((input - mean) / sqrt(var + eps) * weight + bias) for each channel, over the
// statistics of the batch or given ones. Ioffe & Szegedy 2015.
//
// Bytes, in passes over an activation: forward reads it for the statistics, reads it again and
// writes the result (3); with given statistics 2. Backward reads input and gradient for the two
// sums, reads both again and writes the gradient of the input (5). The activation and its
// derivative cost no pass: backward computes what it needs of them again from the input.
//
// Reading backwards what the sums read last gained nothing, nor do stores past the caches into
// fresh memory, which the kernel has just zeroed (1.0 to 1.2 times slower forward, 1.0 to 1.1
// backward, 10 to 77 MB of float32, one Zen 5 core, turns in one process). Large results of
// training lie in kept memory (csrc/ops/kept_memory.h) and are stored so: MobileNetV2's step, batch
// 16, 365 ms without, 354 with in float32, 205 and 203 in bfloat16 (two cores of an Intel Xeon with
// AMX).
#pragma once

#include "common/activation.h"
#include "common/types.h"
#include "variants.h"

namespace fastconv {

struct BatchNormParams {
  const void* input;        // (batch, channels, pixels), dense in layout
  const void* grad_output;  // as input; backward only
  void* output;             // as input; backward: the gradient of input

  // (channels) in the accumulation type; weight and bias may be null
  const void *weight, *bias;
  void *mean, *var;  // var is biased; the results of finish_statistics, else given
  void *grad_weight, *grad_bias;

  double* partials;    // batch_norm_partials(p): two numbers a column of each slab
  void* coefficients;  // batch_norm_coefficients(p) in the accumulation type

  int64_t batch, channels, pixels;
  double eps;
  bool training;  // the statistics are those of the batch
  Activation activation;
  Layout layout;
  DType dtype;
};

FASTCONV_INLINE Variant batch_norm_variant(const BatchNormParams& p) {
  return p.layout == Layout::kNHWC ? Variant::batch_norm_nhwc : Variant::batch_norm_nchw;
}

FASTCONV_INLINE Variant batch_norm_backward_variant(const BatchNormParams& p) {
  return p.layout == Layout::kNHWC ? Variant::batch_norm_backward_nhwc
                                   : Variant::batch_norm_backward_nchw;
}

// NHWC: so many pixels make a row of whole vectors, four or more where channels are few; one where
// such a row would be long.
FASTCONV_INLINE int64_t batch_norm_pixels_a_row(const BatchNormParams& p) {
  if (p.layout == Layout::kNCHW) return 1;
  int64_t pixels = 1;
  while (pixels < 16 && pixels * p.channels % 16 != 0) pixels *= 2;
  if (pixels * p.channels > 1024) return 1;
  return pixels * max_of<int64_t>(1, 64 / (pixels * p.channels));
}

// What a unit of work is, and what its sums are of: elements that neither their number nor the
// number of threads depend on each other, so that the same bits come out on any of them.
constexpr int64_t kBatchNormUnit = 65536;
constexpr int64_t kBatchNormPart = 8192;  // NCHW: elements of a plane, at most

// NHWC: units of rows, then one of the pixels that fill no row. NCHW: a part of a plane each.
struct BatchNormUnits {
  int64_t columns;                  // NHWC: of a row; NCHW: parts of all the channels of an image
  int64_t rows, rows_a_unit, rest;  // NHWC; rest counts pixels
  int64_t parts;                    // NCHW: of a plane
  int64_t slabs, units;             // a slab holds two numbers a column

  FASTCONV_INLINE explicit BatchNormUnits(const BatchNormParams& p) {
    if (p.layout == Layout::kNHWC) {
      const int64_t pixels = batch_norm_pixels_a_row(p);
      columns = pixels * p.channels;
      rows = p.batch * p.pixels / pixels;
      rest = p.batch * p.pixels % pixels;
      rows_a_unit = max_of<int64_t>(32, kBatchNormUnit / columns);
      parts = 0;
      slabs = units = div_up(rows, rows_a_unit) + (rest > 0);
    } else {
      parts = div_up(p.pixels, kBatchNormPart);
      columns = p.channels * parts;
      rows = rest = rows_a_unit = 0;
      slabs = p.batch;
      units = slabs * columns;
    }
  }
};

FASTCONV_INLINE int64_t batch_norm_partials(const BatchNormParams& p) {
  const BatchNormUnits u(p);
  return 2 * u.slabs * u.columns;
}

// Per column of a row, or channel: mean, scale, shift; backward two more.
FASTCONV_INLINE int64_t batch_norm_coefficients(const BatchNormParams& p) {
  return 5 * batch_norm_pixels_a_row(p) * p.channels;
}

// Forward in training: sums over all units, finish; then, and with given statistics alone, fold and
// apply over all units. Backward the same; without training no finish_sums where no parameter wants
// a gradient.
struct BatchNormKernels {
  void (*sums)(const BatchNormParams&, int64_t begin, int64_t end);
  void (*finish)(const BatchNormParams&);  // from sums: mean and var, or grad_weight and grad_bias
  void (*fold)(const BatchNormParams&);    // the coefficients
  void (*apply)(const BatchNormParams&, int64_t begin, int64_t end);
};

}  // namespace fastconv
