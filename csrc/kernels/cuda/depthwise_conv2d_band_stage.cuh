// Sources and targets of depthwise_conv2d_band between global memory and shared memory, where each
// channel is a plane and two neighbours in a row are a word, in either layout. Even rows lie before
// odd ones, so that every second row, which is what a product takes, is the next.
#pragma once

#include "depthwise_conv2d.h"
#include "pack.cuh"

namespace fastconv::cuda {

// Where a block's work starts, and its channels.
struct BandOrigin {
  int channel, channels, column, row, image;  // targets
  int source_column, source_row;
};

FASTCONV_INLINE BandOrigin band_origin(const DepthwiseParams& p, int columns) {
  const BandTiles& t = p.band;
  uint32_t index = blockIdx.x;
  BandOrigin o;
  o.channel = take(index, t.channel_blocks) << t.channels_log2;
  o.channels = min_of(1 << t.channels_log2, int(p.shape.channels) - o.channel);
  o.column = take(index, t.across) * columns;
  o.row = take(index, t.down) << (t.pairs_log2 + 1);
  o.image = index * (kBandPairs >> t.pairs_log2);
  o.source_column = o.column - int(p.shape.pad_left), o.source_row = o.row - int(p.shape.pad_top);
  return o;
}

FASTCONV_INLINE int band_plane(const BandTiles& t, int channel) {
  return channel * t.plane_words + channel / kBandPack * kBandGap;
}

FASTCONV_INLINE int band_row(const BandTiles& t, int row, int pitch) {
  return (row & 1) * t.odd_rows + (row >> 1) * pitch;
}

// A pack of channels of one pixel, or zeros.
template <class T>
FASTCONV_INLINE Pack<uint32_t, 4> load_pixel(const T* from, bool inside) {
  return inside ? *reinterpret_cast<const Pack<uint32_t, 4>*>(from) : Pack<uint32_t, 4>{};
}

FASTCONV_INLINE uint32_t low_halves(uint32_t first, uint32_t second) {
  return (first & 0xffff) | second << 16;
}
FASTCONV_INLINE uint32_t high_halves(uint32_t first, uint32_t second) {
  return first >> 16 | (second & 0xffff0000);
}

// How some threads share rows of words: each keeps its word of a row and goes down the rows, so
// that an address costs an addition.
struct BandWalk {
  int row, step, word;
};

template <int words>
FASTCONV_INLINE BandWalk band_walk(int thread, int threads) {
  const int step = threads / words, row = thread / words;
  constexpr int kNever = 1 << 30;  // the threads that are left over
  return {row < step ? row : kNever, step, thread % words};
}

// Of channels_last, where a thread has eight channels of two neighbours: eight words.
struct BandPacks {
  int offset;  // of the thread's channels
  int thread, threads;
};

FASTCONV_INLINE BandPacks band_packs(const BandTiles& t) {
  const int log2 = t.channels_log2 - 3;
  return {int(threadIdx.x & ((1 << log2) - 1)) * kBandPack, int(threadIdx.x >> log2),
          kBandThreads >> log2};
}

template <class T, int words, int pitch>
FASTCONV_INLINE void stage_band_nhwc(const DepthwiseParams& p, const BandOrigin& o, uint32_t* to) {
  const BandTiles& t = p.band;
  const BandPacks packs = band_packs(t);
  const BandWalk walk = band_walk<words>(packs.thread, packs.threads);
  if (packs.offset >= o.channels) return;
  const int height = int(p.source_height()), width = int(p.source_width());
  const int64_t channels = p.shape.channels, row_step = walk.step * width * channels;
  const int w = o.source_column + 2 * walk.word;
  const bool left = unsigned(w) < unsigned(width), right = unsigned(w + 1) < unsigned(width);
  for (int i = 0; i < kBandPairs >> t.pairs_log2; ++i) {
    const bool exists = o.image + i < int(p.shape.batch);
    uint32_t* image = to + band_plane(t, packs.offset) + i * t.image_words + walk.word;
    int h = o.source_row + walk.row;
    const T* from = static_cast<const T*>(p.source) + o.channel + packs.offset +
                    ((int64_t(o.image + i) * height + h) * width + w) * channels;
#pragma unroll 4
    for (int row = walk.row; row < t.source_rows; row += walk.step) {
      const bool inside = exists && unsigned(h) < unsigned(height);
      const auto first = load_pixel(from, inside && left);
      const auto second = load_pixel(from + channels, inside && right);
      uint32_t* into = image + band_row(t, row, pitch);
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        into[2 * q * t.plane_words] = low_halves(first.values[q], second.values[q]);
        into[(2 * q + 1) * t.plane_words] = high_halves(first.values[q], second.values[q]);
      }
      h += walk.step, from += row_step;
    }
  }
}

template <class T, int words, int pitch>
FASTCONV_INLINE void store_band_nhwc(const DepthwiseParams& p, const BandOrigin& o,
                                     const uint32_t* from) {
  const BandTiles& t = p.band;
  const BandPacks packs = band_packs(t);
  const BandWalk walk = band_walk<words>(packs.thread, packs.threads);
  const int height = int(p.target_height()), width = int(p.target_width());
  const int64_t channels = p.shape.channels, row_step = walk.step * width * channels;
  const int w = o.column + 2 * walk.word, images = kBandPairs >> t.pairs_log2;
  if (packs.offset >= o.channels || w >= width) return;
  const bool right = w + 1 < width;
  const int rows = min_of(2 << t.pairs_log2, height - o.row);
  for (int i = 0; i < min_of(images, int(p.shape.batch) - o.image); ++i) {
    const uint32_t* image = from + band_plane(t, packs.offset) + i * t.image_words + walk.word;
    T* to = static_cast<T*>(p.target) + o.channel + packs.offset +
            ((int64_t(o.image + i) * height + o.row + walk.row) * width + w) * channels;
#pragma unroll 2
    for (int row = walk.row; row < rows; row += walk.step) {
      const uint32_t* at = image + band_row(t, row, pitch);
      Pack<uint32_t, 4> first, second;
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const uint32_t a = at[2 * q * t.plane_words], b = at[(2 * q + 1) * t.plane_words];
        first.values[q] = low_halves(a, b), second.values[q] = high_halves(a, b);
      }
      *reinterpret_cast<Pack<uint32_t, 4>*>(to) = first;
      if (right) *reinterpret_cast<Pack<uint32_t, 4>*>(to + channels) = second;
      to += row_step;
    }
  }
}

// Contiguous: all threads have a channel at a time. Rows begin where the width and the padding let
// them, so elements are read one by one.
template <class T, int words, int pitch>
FASTCONV_INLINE void stage_band_nchw(const DepthwiseParams& p, const BandOrigin& o, uint32_t* to) {
  const BandTiles& t = p.band;
  const BandWalk walk = band_walk<words>(threadIdx.x, kBandThreads);
  const int height = int(p.source_height()), width = int(p.source_width());
  const int w = o.source_column + 2 * walk.word, images = kBandPairs >> t.pairs_log2;
  const bool left = unsigned(w) < unsigned(width), right = unsigned(w + 1) < unsigned(width);
  const int row_step = walk.step * width;
  for (int i = 0; i < images << t.channels_log2; ++i) {
    const int n = i & (images - 1), c = i >> (4 - t.pairs_log2);
    static_assert(kBandPairs == 1 << 4);
    if (c >= o.channels) break;
    const bool exists = o.image + n < int(p.shape.batch);
    uint32_t* plane = to + band_plane(t, c) + n * t.image_words + walk.word;
    int h = o.source_row + walk.row;
    const T* from =
        static_cast<const T*>(p.source) + w +
        ((int64_t(o.image + n) * p.shape.channels + o.channel + c) * height + h) * width;
#pragma unroll 8
    for (int row = walk.row; row < t.source_rows; row += walk.step) {
      const bool inside = exists && unsigned(h) < unsigned(height);
      uint32_t word = 0;
      if (inside && left) word = from[0].bits;
      if (inside && right) word |= uint32_t(from[1].bits) << 16;
      plane[band_row(t, row, pitch)] = word;
      h += walk.step, from += row_step;
    }
  }
}

template <class T, int words, int pitch>
FASTCONV_INLINE void store_band_nchw(const DepthwiseParams& p, const BandOrigin& o,
                                     const uint32_t* from) {
  const BandTiles& t = p.band;
  const BandWalk walk = band_walk<words>(threadIdx.x, kBandThreads);
  const int height = int(p.target_height()), width = int(p.target_width());
  const bool whole = width % 2 == 0 && reinterpret_cast<uintptr_t>(p.target) % 4 == 0;
  const int w = o.column + 2 * walk.word, images = kBandPairs >> t.pairs_log2;
  if (w >= width) return;
  const bool right = w + 1 < width;
  const int rows = min_of(2 << t.pairs_log2, height - o.row), row_step = walk.step * width;
  for (int i = 0; i < images << t.channels_log2; ++i) {
    const int n = i & (images - 1), c = i >> (4 - t.pairs_log2);
    if (c >= o.channels) break;
    if (o.image + n >= int(p.shape.batch)) continue;
    const uint32_t* plane = from + band_plane(t, c) + n * t.image_words + walk.word;
    T* to =
        static_cast<T*>(p.target) + w +
        ((int64_t(o.image + n) * p.shape.channels + o.channel + c) * height + o.row + walk.row) *
            width;
#pragma unroll 4
    for (int row = walk.row; row < rows; row += walk.step) {
      const uint32_t word = plane[band_row(t, row, pitch)];
      if (whole) {
        *reinterpret_cast<uint32_t*>(to) = word;
      } else {
        to[0] = T{uint16_t(word)};
        if (right) to[1] = T{uint16_t(word >> 16)};
      }
      to += row_step;
    }
  }
}

// The tap at a place within the kernel's reach, -1 where there is none.
FASTCONV_INLINE int band_tap(int place, int reach, int64_t dilation) {
  if (unsigned(place) >= unsigned(reach)) return -1;
  if (dilation == 1) return place;
  const int tap = place / int(dilation);
  return tap * int(dilation) == place ? tap : -1;
}

// Puts the weights of the block's channels into shared memory, a word for two neighbours, with
// zeros around and between them: kBandBefore before each row, one row before all.
template <class T, int blocks>
FASTCONV_INLINE void stage_band_weights(const DepthwiseParams& p, const BandOrigin& o,
                                        uint32_t* to) {
  constexpr int kWords = band_weight_words(blocks);
  const BandTiles& t = p.band;
  const DepthwiseWeight& by = p.weight;
  const BandWalk walk = band_walk<kWords>(threadIdx.x % 32, 32);
  const int rows = band_weight_rows(t.reach_h), place = 2 * walk.word - kBandBefore;
  const int left = band_tap(place, t.reach_w, p.shape.dilation_w);
  const int right = band_tap(place + 1, t.reach_w, p.shape.dilation_w);
  for (int c = threadIdx.x / 32; c < o.channels; c += kBandThreads / 32) {
    uint32_t* into = to + c * rows * kWords + walk.word;
    const T* weight = static_cast<const T*>(by.data) + (o.channel + c) * by.stride_channel;
#pragma unroll 4
    for (int row = walk.row; row < rows; row += walk.step) {
      const int tap = band_tap(row - 1, t.reach_h, p.shape.dilation_h);
      const T* from = weight + tap * by.stride_h;
      uint32_t word = 0;
      if (tap >= 0 && left >= 0) word = from[left * by.stride_w].bits;
      if (tap >= 0 && right >= 0) word |= uint32_t(from[right * by.stride_w].bits) << 16;
      into[row * kWords] = word;
    }
  }
}

}  // namespace fastconv::cuda
