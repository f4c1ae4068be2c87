// Depthwise convolution of stride 1 in 16 bits on the matrix unit: see depthwise_conv2d_band.h.
// Issue slots for 128 outputs of 7x7 in a patch of 32 x 32, counted in SASS: 26 for the products
// and what they read, 20 to narrow, 14 for the weights, 34 between global and shared memory: 94,
// and 210 contiguous, whose rows begin anywhere. An FMA a tap takes 231 and 292 without any
// staging; the memory's time is 110 slots on an H200 and 156 on an H100. The matrix unit is busy
// with 8 products, for 32 to 52 slots.
#pragma once

#include "depthwise_conv2d_band_stage.cuh"
#include "mma.cuh"

namespace fastconv::cuda {

// One target without the taps in the padding and those between the weights. weights: of the
// channel, staged.
template <class T, int blocks>
FASTCONV_INLINE float sum_window(const DepthwiseParams& p, const BandOrigin& o,
                                 const uint32_t* plane, int pitch, const uint32_t* weights, int row,
                                 int column) {
  const int dilation_h = int(p.shape.dilation_h), dilation_w = int(p.shape.dilation_w);
  float sum = 0;
#pragma unroll 1
  for (int r = 0; r < p.band.reach_h; r += dilation_h) {
    const int from = row + r;
    if (unsigned(o.source_row + from) >= unsigned(p.source_height())) continue;
    const T* source = reinterpret_cast<const T*>(plane + band_row(p.band, from, pitch));
    const T* weight = reinterpret_cast<const T*>(weights + (r + 1) * band_weight_words(blocks));
#pragma unroll 1
    for (int c = 0; c < p.band.reach_w; c += dilation_w) {
      if (unsigned(o.source_column + column + c) >= unsigned(p.source_width())) continue;
      sum += widen(source[column + c]) * widen(weight[kBandBefore + c]);
    }
  }
  return sum;
}

// The targets of a channel, by a warp; they take the place of its sources.
template <class T, int blocks, int tiles>
FASTCONV_INLINE void convolve_plane(const DepthwiseParams& p, const BandOrigin& o, int channel,
                                    uint32_t* plane, const uint32_t* weights) {
  constexpr int kPitch = band_pitch(blocks, tiles), kWeights = band_weight_words(blocks);
  const BandTiles& t = p.band;
  const int lane = threadIdx.x % 32, group = lane / 4, thread = lane % 4;
  const int last_pair = (1 << t.pairs_log2) - 1;
  const auto offset_of = [&](int pair) {
    return (pair >> t.pairs_log2) * t.image_words + (pair & last_pair) * kPitch;
  };
  const float bias = p.bias ? widen(static_cast<const T*>(p.bias)[o.channel + channel]) : 0.0f;
  float sums[2][tiles][4];  // rows of a pair; pairs group and group + 8, two columns each
  constexpr int kSums = 2 * tiles * 4;
#pragma unroll
  for (int i = 0; i < kSums; ++i) (&sums[0][0][0])[i] = bias;

  // What this thread brings the address of: pairs 0 to 7 and 8 to 15 of an even row, and of an odd.
  const uint32_t* source = plane + offset_of(lane % 16) + lane / 16 * t.odd_rows;
  const T* taps = reinterpret_cast<const T*>(weights) + kBandBefore + 2 * thread - group;
  const auto load_band = [&](uint32_t (&band)[blocks]) {
#pragma unroll
    for (int b = 0; b < blocks; ++b) {
      band[b] = taps[kBandColumns * b].bits | uint32_t(taps[kBandColumns * b + 1].bits) << 16;
    }
    taps += 2 * kWeights;
  };
  uint32_t before[blocks], first[blocks], second[blocks];
  load_band(before);
#pragma unroll 1
  for (int left = band_steps(t.reach_h); left > 0; --left) {
    load_band(first);
    load_band(second);
#pragma unroll
    for (int u = 0; u < tiles + blocks - 1; ++u) {
      uint32_t sources[4];
      load_matrices<false>(sources, reinterpret_cast<const T*>(source) + kBandColumns * u);
#pragma unroll
      for (int b = 0; b < blocks; ++b) {
        if (u < b || u - b >= tiles) continue;
        multiply_add<T>(sums[0][u - b], sources, first[b], second[b]);
        multiply_add<T>(sums[1][u - b], sources, before[b], first[b]);
      }
    }
    source += kPitch;
#pragma unroll
    for (int b = 0; b < blocks; ++b) before[b] = second[b];
  }

  // What is not finite is NaN for the targets beside it, too, whose zeros in the band it met, and
  // an infinite weight for those that meet the padding. All of these are summed again.
  float check = 0;
#pragma unroll
  for (int i = 0; i < kSums; ++i) check += (&sums[0][0][0])[i] * 0;
  if (!(check == 0)) {
#pragma unroll 1
    for (int i = 0; i < kSums; ++i) {
      const int pair = i / 2 % 2 * 8 + group;
      const int row = (pair & last_pair) * 2 + i / (4 * tiles);
      const int column = i / 4 % tiles * kBandColumns + 2 * thread + i % 2;
      const float sum =
          bias + sum_window<T, blocks>(p, o, plane + (pair >> t.pairs_log2) * t.image_words, kPitch,
                                       weights, row, column);
#pragma unroll
      for (int j = 0; j < kSums; ++j) {
        float& old = (&sums[0][0][0])[j];
        if (j == i && old - old != 0) old = sum;
      }
    }
  }
  activate(p.activation, &sums[0][0][0], kSums);
  sync_warp();  // others may still read
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t* to = plane + offset_of(8 * half + group) + thread;
#pragma unroll
    for (int i = 0; i < tiles; ++i) {
      to[4 * i] = narrow_pair<T>(sums[0][i][2 * half], sums[0][i][2 * half + 1]);
      to[4 * i + t.odd_rows] = narrow_pair<T>(sums[1][i][2 * half], sums[1][i][2 * half + 1]);
    }
  }
}

template <int dtype, int layout, int blocks, int tiles>
__global__ void __launch_bounds__(kBandThreads, kBandBlocks)
    depthwise_conv2d_band(const DepthwiseParams p) {
  using T = element_t<dtype>;
  constexpr int kWords = band_words(blocks, tiles), kPitch = band_pitch(blocks, tiles);
  FASTCONV_SHARED(shared);
  uint32_t* const planes = reinterpret_cast<uint32_t*>(shared);
  const BandTiles& t = p.band;
  const BandOrigin o = band_origin(p, kBandColumns * tiles);
  if constexpr (layout == int(Layout::kNHWC)) {
    stage_band_nhwc<T, kWords, kPitch>(p, o, planes);
  } else {
    stage_band_nchw<T, kWords, kPitch>(p, o, planes);
  }
  uint32_t* const weights = planes + t.weights;
  stage_band_weights<T, blocks>(p, o, weights);
  __syncthreads();
  const int weight_words = band_weight_rows(t.reach_h) * band_weight_words(blocks);
  for (int c = threadIdx.x / 32; c < o.channels; c += kBandThreads / 32) {
    convolve_plane<T, blocks, tiles>(p, o, c, planes + band_plane(t, c),
                                     weights + c * weight_words);
  }
  __syncthreads();
  constexpr int kTargets = tiles * kBandColumns / 2;  // words
  if constexpr (layout == int(Layout::kNHWC)) {
    store_band_nhwc<T, kTargets, kPitch>(p, o, planes);
  } else {
    store_band_nchw<T, kTargets, kPitch>(p, o, planes);
  }
}

}  // namespace fastconv::cuda
