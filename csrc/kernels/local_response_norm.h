// output[c] = input[c] / (k + scale * sum of input[j]^2)^beta, j in [c - before, c + after].
// Krizhevsky et al. 2012, section 3.3. Forward reads and writes an element once; backward reads
// two.
#pragma once

#include "common/types.h"
#include "variants.h"

namespace fastconv {

struct LocalResponseNormParams {
  const void* input;        // (batch, channels, pixels), dense in layout
  const void* grad_output;  // as input; backward only
  void* output;             // as input; backward: the gradient of input

  int64_t batch, channels, pixels;
  int64_t before, after;  // channels of the window on either side of c, each below channels
  double scale;           // alpha over the window's nominal size
  double beta, k;

  Layout layout;
  DType dtype;
  bool last_cache_is_slow;  // no faster than memory
};

FASTCONV_INLINE Variant local_response_norm_variant(const LocalResponseNormParams& p) {
  return p.layout == Layout::kNHWC ? Variant::local_response_norm_nhwc
                                   : Variant::local_response_norm_nchw;
}

FASTCONV_INLINE Variant local_response_norm_backward_variant(const LocalResponseNormParams& p) {
  return p.layout == Layout::kNHWC ? Variant::local_response_norm_backward_nhwc
                                   : Variant::local_response_norm_backward_nchw;
}

// Windows of five channels, the usual ones, are taken four channels at a time where pixels lie in
// rows (cpu/local_response_norm_by_four.h).
FASTCONV_INLINE bool local_response_norm_by_four(const LocalResponseNormParams& p) {
  return p.layout == Layout::kNCHW && p.before == 2 && p.after == 2 && p.beta == 0.75 &&
         p.dtype != DType::kFloat64;
}

// Large results go past the caches, where runs are aligned or long: from 8 MiB on the consumer
// finds little of them in L2 (16x96x55x55 float32 on one AVX-512 core: 1.07 ms so, 1.5 ms through
// the caches). Four channels at a time forward is fast enough for the last cache (32 MiB) to help
// while input and output nearly fit it: on two threads of a Zen 5 16x96x55x55 takes 355 us past it
// and 345 through it, 64x96x55x55 1.48 and 1.87 ms; of an Intel Xeon with AMX, whose last cache is
// no faster than memory, 780 us and 1.1 ms, 16x256x27x27 475 and 590 us. Backward streams rows long
// enough for the lines that two of them share to be few: 16x96x55x55 656 us and 741 through the
// caches on the Zen 5, 1.27 and 1.37 ms on the Xeon, 16x256x27x27 416 and 390 us, 875 and 755; one
// channel at a time it gained nothing.
FASTCONV_INLINE bool local_response_norm_streams(const LocalResponseNormParams& p) {
  const bool by_four = local_response_norm_by_four(p);
  if (p.grad_output && !by_four) return false;
  const int64_t least_pixels = p.grad_output ? 1024 : 256;
  const bool fits = p.layout == Layout::kNHWC ? p.channels % 16 == 0 : p.pixels >= least_pixels;
  const int64_t least = int64_t{by_four && !p.grad_output && !p.last_cache_is_slow ? 24 : 8} << 20;
  return fits && p.batch * p.channels * p.pixels * size_of(p.dtype) >= least;
}

FASTCONV_INLINE int64_t round_to_line(int64_t elements) {
  return div_up<int64_t>(elements, 16) * 16;
}

// NCHW: a unit is a tile of pixels of one image, all channels: runs long enough for the pages they
// touch, short enough for the rows of a window to stay in L1 and for small images to be shared
// among threads. Backward keeps two rings besides. 1024 was 1.2 times faster than 512 streaming,
// even otherwise; 512 was even with 256 backward.
constexpr int64_t kLocalResponseNormTile = 512;
constexpr int64_t kLocalResponseNormStreamedTile = 1024;
constexpr int64_t kLocalResponseNormBackwardTile = 256;
// Four channels at a time the rows of a window may lie in L2, and longer runs ask less of it:
// forward 16x96x55x55 438 us on two threads of a Zen 5 with 4096, 488 with 1024, backward on one
// thread 1.92 and 2.13 ms. Small batches keep the short tile, which threads can share.
constexpr int64_t kLocalResponseNormLongTile = 4096;
constexpr int64_t kLocalResponseNormImages = 16;  // units enough without tiles
// NHWC: a unit is a run of pixels, about this many elements.
constexpr int64_t kLocalResponseNormBlock = 8192;

FASTCONV_INLINE int64_t local_response_norm_pixels_a_unit(const LocalResponseNormParams& p) {
  if (p.layout == Layout::kNHWC) return max_of<int64_t>(1, kLocalResponseNormBlock / p.channels);
  if (local_response_norm_by_four(p)) {
    const int64_t whole = div_up(p.pixels, kLocalResponseNormLongTile);
    const int64_t tiles = p.batch * whole >= kLocalResponseNormImages
                              ? whole
                              : div_up(p.pixels, kLocalResponseNormTile);
    return round_to_line(div_up(p.pixels, tiles));
  }
  if (p.grad_output) return kLocalResponseNormBackwardTile;
  return local_response_norm_streams(p) ? kLocalResponseNormStreamedTile : kLocalResponseNormTile;
}

// Work comes in units that may run in any order and on any thread.
FASTCONV_INLINE int64_t local_response_norm_units(const LocalResponseNormParams& p) {
  const int64_t a_unit = local_response_norm_pixels_a_unit(p);
  return p.layout == Layout::kNHWC ? div_up(p.batch * p.pixels, a_unit)
                                   : p.batch * div_up(p.pixels, a_unit);
}

FASTCONV_INLINE int64_t local_response_norm_rows(const LocalResponseNormParams& p) {
  return p.before + 1 + p.after;
}

// NHWC kernels work on copies of a few pixels with zeroed margins before and after the channels.
FASTCONV_INLINE int64_t local_response_norm_margin(const LocalResponseNormParams& p) {
  return round_to_line(max_of(p.before, p.after));
}

FASTCONV_INLINE int64_t local_response_norm_pitch(const LocalResponseNormParams& p) {
  return round_to_line(p.channels) + 2 * local_response_norm_margin(p);
}

// Pixels copied at a time: enough that what was stored has reached L1 when the shifted loads come.
FASTCONV_INLINE int64_t local_response_norm_copied(const LocalResponseNormParams& p) {
  return max_of<int64_t>(1, 2048 / local_response_norm_pitch(p));
}

// Elements of the accumulation type a thread needs, aligned to 64 bytes: NHWC one set of copies,
// backward three; NCHW backward two rings of as many rows as the window has; windows of five a row
// of zeros and one for what is not wanted, and backward six besides.
FASTCONV_INLINE int64_t local_response_norm_scratch(const LocalResponseNormParams& p) {
  if (p.layout == Layout::kNHWC) {
    const int64_t copies = local_response_norm_copied(p) * local_response_norm_pitch(p);
    return p.grad_output ? 3 * copies : copies;
  }
  const int64_t tile = local_response_norm_pixels_a_unit(p);
  if (local_response_norm_by_four(p)) return (p.grad_output ? 8 : 2) * tile;
  return p.grad_output ? 2 * local_response_norm_rows(p) * tile : 0;
}

struct LocalResponseNormKernels {
  void (*run)(const LocalResponseNormParams&, void* scratch, int64_t begin, int64_t end);
};

}  // namespace fastconv
