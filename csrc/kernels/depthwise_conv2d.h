// Which variant of depthwise_conv2d a shape takes on the CPU, and how its work splits into units.
#pragma once

#include "depthwise_conv2d_params.h"

namespace fastconv {

// NHWC: output rows and channels worked on together, at most: rows are read again from L1. On one
// core of a Zen 5, us of the forward pass with 2 x 256 / 14 x 128 / 14 x 64: 1x384x14x14 3x3 9.4 /
// 7.7 / 7.5; 16x384x14x14 160 / 144 / 151; 1x144x56x56 3x3 56 / 57 / 62. A unit has two of the
// rows, so that two threads share 14 of them evenly.
constexpr int64_t kDepthwiseGroupRows = 8;
constexpr int64_t kDepthwiseUnitRows = 2;
constexpr int64_t kDepthwiseUnitChannels = 128;
constexpr int64_t kDepthwisePlaneRows = 28;    // NCHW: output rows a unit
constexpr int64_t kDepthwiseStripRows = 4;     // weight gradient, any kernel: rows at a time
constexpr int64_t kDepthwiseWeightUnits = 32;  // weight gradient: units wanted
// Weight gradient: least output pixels of a unit, because each writes sums of its own. On one core
// of a Zen 5, us for 1x384x14x14 3x3 in 11 / 1 chunks: 14.6 / 10.3.
constexpr int64_t kDepthwiseChunkPixels = 196;

// Blocks of a unit's channels, alike as far as whole vectors of 16 allow.
struct ChannelBlock {
  int64_t first, count;
};

FASTCONV_INLINE int64_t depthwise_channel_blocks(int64_t channels) {
  return div_up(channels, kDepthwiseUnitChannels);
}

FASTCONV_INLINE ChannelBlock depthwise_channel_block(int64_t channels, int64_t index) {
  const int64_t size =
      div_up(div_up(channels, depthwise_channel_blocks(channels)), int64_t{16}) * 16;
  return {index * size, min_of(size, channels - index * size)};
}

// Register tiles are built for these kernels, on instruction sets that have vectors.
FASTCONV_INLINE bool depthwise_conv2d_has_tiles(const DepthwiseConv2dShape& s) {
  return s.has_vectors && s.dtype != DType::kFloat64 && s.kernel_h == s.kernel_w &&
         (s.kernel_h == 3 || s.kernel_h == 5 || s.kernel_h == 7);
}

FASTCONV_INLINE bool depthwise_conv2d_fits_tiles(const DepthwiseConv2dShape& s) {
  return depthwise_conv2d_has_tiles(s) && s.stride_h == s.stride_w && s.stride_h <= 2 &&
         s.dilation_h == 1 && s.dilation_w == 1;
}

// Whether the forward pass takes float32 weights with its input of 16 bits: else each tile widens
// them. On one core of an Intel Xeon with AMX, us by tile / so, packing left out: 5x5 16x240x28x28
// in bfloat16 1378 / 1250, in float16 1325 / 1178; 3x3 16x384x14x14 283 / 259 and 252 / 238. Of few
// pixels packing costs more than that: 5x5 1x672x14x14 took 1.2 and 1.6 times float32's.
constexpr int64_t kDepthwisePixelsWorthWidening = 1024;
FASTCONV_INLINE bool depthwise_conv2d_widens_weight(const DepthwiseConv2dShape& s) {
  // The same for a gradient, whose input and output change places.
  const int64_t pixels = s.batch * (s.height * s.width + s.out_height * s.out_width) / 2;
  return s.layout == Layout::kNHWC && s.multiplier == 1 && depthwise_conv2d_fits_tiles(s) &&
         (s.dtype == DType::kBFloat16 || s.dtype == DType::kFloat16) &&
         pixels >= kDepthwisePixelsWorthWidening;
}

// Contiguous tensors of this many channels are transposed into channels_last strips; fewer would
// leave most lanes empty and take kernels of their own, as do shapes whose strip is too large.
constexpr int64_t kDepthwisePlanesLeast = 8;
constexpr int64_t kDepthwisePlanes = 16;      // planes a unit: the lanes of the widest vector
constexpr int64_t kDepthwisePixelBytes = 64;  // of a strip, at most
// Two strips stay in L2. On one core of a Zen 5, us with 24 / 64 / 200 KB: 1x240x28x28 5x5 forward
// 71 / 66 / 63, weight gradient 80 / 70 / 71; 1x144x56x56 3x3 forward 125 / 114 / 110.
constexpr int64_t kDepthwiseStripBytes = 128 << 10;
constexpr int64_t kDepthwiseMostStripBytes = 8 << 20;

// Rows of the two strips of `rows` output rows, or of `rows` strides of input rows where those are
// wanted: what either reads of the other side is in.
FASTCONV_INLINE int64_t depthwise_conv2d_strip_inputs(const DepthwiseConv2dShape& s, int64_t rows) {
  return min_of(rows * s.stride_h + s.dilation_h * (s.kernel_h - 1), s.height);
}

FASTCONV_INLINE int64_t depthwise_conv2d_strip_outputs(const DepthwiseConv2dShape& s,
                                                       int64_t rows) {
  return min_of(rows + s.dilation_h * (s.kernel_h - 1) / s.stride_h + 1, s.out_height);
}

FASTCONV_INLINE int64_t depthwise_conv2d_strip_bytes(const DepthwiseConv2dShape& s, int64_t rows) {
  return (depthwise_conv2d_strip_inputs(s, rows) * s.width +
          depthwise_conv2d_strip_outputs(s, rows) * s.out_width) *
         kDepthwisePixelBytes;
}

// An even number, as tiles are two rows high, whose strips stay in the cache, and more than the
// kernel reaches, so that few rows are transposed twice.
FASTCONV_INLINE int64_t depthwise_conv2d_strip_rows(const DepthwiseConv2dShape& s) {
  int64_t rows = 2;
  while (rows < min_of(s.out_height, kDepthwisePlaneRows) &&
         (rows * s.stride_h < s.dilation_h * (s.kernel_h - 1) ||
          depthwise_conv2d_strip_bytes(s, rows + 2) <= kDepthwiseStripBytes)) {
    rows += 2;
  }
  return rows;
}

// To read along the row costs less than to transpose, but not of rows that fill half a vector, nor
// where each of many taps widens its own shift of 16 bits. On one core of an Intel Xeon with AMX,
// us along the row / transposed: 3x3 1x192x28x28 39 / 65, 1x384x14x14 19 / 32, in bfloat16 25 / 30,
// in float16 27 / 29, 16x384x14x14 371 / 851, in bfloat16 387 / 519, 1x240x28x28 stride 2 25 / 38;
// 5x5 1x240x28x28 95 / 113, 1x672x14x14 65 / 84, in float16 91 / 73, 16x672x14x14 1160 / 1910; 7x7
// 1x384x14x14 52 / 64, in float16 80 / 59. Of a Zen 5: 5x5 1x672x14x14 48 / 50; 7x7 1x384x14x14
// 41 / 39, 1x240x56x56 stride 2 167 / 180; 3x3 1x384x14x14 in float16 19 / 14, 1x960x7x7 22 / 13.
FASTCONV_INLINE bool depthwise_conv2d_by_rows(const DepthwiseConv2dShape& s) {
  const int64_t width = min_of(s.width, s.out_width);
  if (!depthwise_conv2d_fits_tiles(s)) return false;
  return width > 8 && (s.dtype == DType::kFloat32 || s.kernel_h == 3);
}

FASTCONV_INLINE bool depthwise_conv2d_fits_planes(const DepthwiseConv2dShape& s) {
  return s.layout == Layout::kNCHW && s.has_vectors && s.multiplier == 1 &&
         s.channels >= kDepthwisePlanesLeast &&
         depthwise_conv2d_strip_bytes(s, 2) <= kDepthwiseMostStripBytes;
}

// Windows that no tile fits are correlated over strips at stride 1, in either layout. On one core
// of a Zen 5, us of the forward pass tap by tap / over strips, channels_last: 1x64x56x56 15x15 1001
// / 320, 1x64x28x28 31x31 868 / 211, 1x144x28x28 4x4 62 / 37, 2x2 24.7 / 24.5, 1x3 17.7 / 20.6.
constexpr int64_t kDepthwiseCorrelateTaps = 4;

FASTCONV_INLINE bool depthwise_conv2d_correlates(const DepthwiseConv2dShape& s) {
  return s.has_vectors && s.multiplier == 1 && s.stride_h == 1 && s.stride_w == 1 &&
         s.dilation_h == 1 && s.dilation_w == 1 && s.taps() >= kDepthwiseCorrelateTaps &&
         !depthwise_conv2d_fits_tiles(s);
}

// The gradient of the weights has a kernel row as its tile, and one column leaves that empty:
// 1x144x28x28 11x1 67 us, over strips 82; 1x11 32 and 21.
FASTCONV_INLINE bool depthwise_conv2d_correlates_weight(const DepthwiseConv2dShape& s) {
  return depthwise_conv2d_correlates(s) && s.kernel_w > 1;
}

FASTCONV_INLINE bool depthwise_conv2d_fits_pixels(const DepthwiseConv2dShape& s) {
  return s.layout == Layout::kNHWC && depthwise_conv2d_correlates(s) &&
         depthwise_conv2d_strip_bytes(s, 2) <= kDepthwiseMostStripBytes;
}

FASTCONV_INLINE bool depthwise_conv2d_by_strips(const DepthwiseConv2dShape& s) {
  return s.layout == Layout::kNHWC
             ? depthwise_conv2d_fits_pixels(s)
             : depthwise_conv2d_fits_planes(s) && !depthwise_conv2d_by_rows(s);
}

// A batch takes the channels along the row from far apart, one image after the other: 16x144x56x56
// 3x3 6200 us, transposed 3060; 1x144x56x56 106 us, transposed 119 (one core of a Zen 5).
FASTCONV_INLINE bool depthwise_conv2d_weight_by_strips(const DepthwiseConv2dShape& s) {
  if (s.layout == Layout::kNHWC) {
    return depthwise_conv2d_fits_pixels(s) && depthwise_conv2d_correlates_weight(s);
  }
  const bool by_rows =
      depthwise_conv2d_fits_tiles(s) && s.kernel_h == 3 && min_of(s.width, s.out_width) > 16;
  return depthwise_conv2d_fits_planes(s) && (s.batch > 1 || !by_rows);
}

// Bytes of scratch a thread brings: weights, bias and the two strips.
FASTCONV_INLINE int64_t depthwise_conv2d_scratch(const DepthwiseConv2dShape& s) {
  if (!depthwise_conv2d_fits_planes(s) && !depthwise_conv2d_fits_pixels(s)) return 0;
  return (s.taps() + 1) * kDepthwisePixelBytes +
         depthwise_conv2d_strip_bytes(s, depthwise_conv2d_strip_rows(s));
}

FASTCONV_INLINE int64_t depthwise_units(const DepthwiseConv2dShape& s, int64_t channels,
                                        int64_t height, bool by_strips) {
  if (s.layout == Layout::kNHWC && !by_strips) {
    return s.batch * div_up(height, kDepthwiseUnitRows) * depthwise_channel_blocks(channels);
  }
  const int64_t planes = by_strips ? div_up(channels, kDepthwisePlanes) : channels;
  return s.batch * planes * div_up(height, kDepthwisePlaneRows);
}

// Work comes in units that may run in any order and on any thread.
FASTCONV_INLINE int64_t depthwise_conv2d_units(const DepthwiseConv2dShape& s) {
  return depthwise_units(s, s.out_channels(), s.out_height, depthwise_conv2d_by_strips(s));
}

FASTCONV_INLINE int64_t depthwise_conv2d_channel_blocks(const DepthwiseConv2dShape& s) {
  return div_up(s.out_channels(),
                depthwise_conv2d_weight_by_strips(s) ? kDepthwisePlanes : kDepthwiseUnitChannels);
}

FASTCONV_INLINE int64_t depthwise_conv2d_chunks(const DepthwiseConv2dShape& s) {
  if (s.layout == Layout::kNCHW && !depthwise_conv2d_weight_by_strips(s)) return 1;
  const int64_t rows = s.batch * s.out_height;
  const int64_t fit = div_up(rows * s.out_width, kDepthwiseChunkPixels);
  const int64_t wanted = div_up(kDepthwiseWeightUnits, depthwise_conv2d_channel_blocks(s));
  return min_of(rows, min_of(fit, wanted));
}

// The sums of a unit's channels over the chunks are written together.
FASTCONV_INLINE int64_t depthwise_conv2d_sum_units(const DepthwiseConv2dShape& s) {
  return div_up(s.out_channels(), kDepthwisePlanes);
}

FASTCONV_INLINE int64_t depthwise_conv2d_backward_weight_units(const DepthwiseConv2dShape& s) {
  return s.layout == Layout::kNHWC || depthwise_conv2d_weight_by_strips(s)
             ? depthwise_conv2d_chunks(s) * depthwise_conv2d_channel_blocks(s)
             : s.out_channels();
}

FASTCONV_INLINE Variant depthwise_conv2d_variant(const DepthwiseConv2dShape& s) {
  const bool nhwc = s.layout == Layout::kNHWC;
  if (depthwise_conv2d_by_strips(s)) {
    return nhwc ? Variant::depthwise_conv2d_nhwc_strips : Variant::depthwise_conv2d_nchw_planes;
  }
  if (depthwise_conv2d_fits_tiles(s) && (s.multiplier == 1 || !nhwc)) {
#define FASTCONV_TILE(k, s_)                                 \
  if (s.kernel_h == k && s.stride_h == s_)                   \
    return nhwc ? Variant::depthwise_conv2d_nhwc_k##k##s##s_ \
                : Variant::depthwise_conv2d_nchw_k##k##s##s_;
    FASTCONV_TILE(3, 1)
    FASTCONV_TILE(3, 2)
    FASTCONV_TILE(5, 1)
    FASTCONV_TILE(5, 2)
    FASTCONV_TILE(7, 1)
    FASTCONV_TILE(7, 2)
#undef FASTCONV_TILE
  }
  return nhwc ? Variant::depthwise_conv2d_nhwc_any : Variant::depthwise_conv2d_nchw_any;
}

// The gradient of the input at stride 1 is the forward pass over grad_output with flipped weights.
FASTCONV_INLINE bool depthwise_conv2d_backward_is_forward(const DepthwiseConv2dShape& s) {
  return s.stride_h == 1 && s.stride_w == 1 && s.multiplier == 1;
}

FASTCONV_INLINE DepthwiseConv2dShape depthwise_conv2d_transposed(DepthwiseConv2dShape s) {
  DepthwiseConv2dShape t = s;
  t.height = s.out_height, t.width = s.out_width;
  t.out_height = s.height, t.out_width = s.width;
  t.pad_top = s.dilation_h * (s.kernel_h - 1) - s.pad_top;
  t.pad_left = s.dilation_w * (s.kernel_w - 1) - s.pad_left;
  return t;
}

FASTCONV_INLINE int64_t depthwise_conv2d_backward_input_units(const DepthwiseConv2dShape& s) {
  if (depthwise_conv2d_backward_is_forward(s)) {
    return depthwise_conv2d_units(depthwise_conv2d_transposed(s));
  }
  return depthwise_units(s, s.channels, s.height, depthwise_conv2d_fits_planes(s));
}

FASTCONV_INLINE int64_t depthwise_conv2d_backward_input_scratch(const DepthwiseConv2dShape& s) {
  return depthwise_conv2d_scratch(
      depthwise_conv2d_backward_is_forward(s) ? depthwise_conv2d_transposed(s) : s);
}

FASTCONV_INLINE Variant depthwise_conv2d_backward_input_variant(const DepthwiseConv2dShape& s) {
  if (depthwise_conv2d_backward_is_forward(s)) {
    return depthwise_conv2d_variant(depthwise_conv2d_transposed(s));
  }
  if (s.layout == Layout::kNHWC) {
    return depthwise_conv2d_fits_tiles(s) && s.multiplier == 1
               ? Variant::depthwise_conv2d_backward_input_nhwc_k357s2
               : Variant::depthwise_conv2d_backward_input_nhwc;
  }
  return depthwise_conv2d_fits_planes(s) ? Variant::depthwise_conv2d_backward_input_nchw_planes
                                         : Variant::depthwise_conv2d_backward_input_nchw;
}

FASTCONV_INLINE bool depthwise_conv2d_weight_fits_tiles(const DepthwiseConv2dShape& s) {
  return depthwise_conv2d_fits_tiles(s) && s.multiplier == 1;
}

FASTCONV_INLINE Variant depthwise_conv2d_backward_weight_variant(const DepthwiseConv2dShape& s) {
  if (depthwise_conv2d_weight_by_strips(s)) {
    return s.layout == Layout::kNHWC ? Variant::depthwise_conv2d_backward_weight_nhwc_strips
                                     : Variant::depthwise_conv2d_backward_weight_nchw_planes;
  }
  if (s.layout == Layout::kNHWC) {
    return depthwise_conv2d_weight_fits_tiles(s)
               ? Variant::depthwise_conv2d_backward_weight_nhwc_k357
               : Variant::depthwise_conv2d_backward_weight_nhwc_any;
  }
  return depthwise_conv2d_has_tiles(s) && s.stride_w <= 2
             ? Variant::depthwise_conv2d_backward_weight_nchw_k357
             : Variant::depthwise_conv2d_backward_weight_nchw_any;
}

}  // namespace fastconv
