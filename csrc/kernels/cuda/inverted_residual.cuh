// An inverted residual or separable block in one kernel, of 16-bit types in channels_last memory.
// A thread block makes a rectangle of the output, 32 hidden channels at a time: it expands the
// rectangle and its halo on the matrix unit, filters that in shared memory and adds its share of
// the projection to sums in registers. What is hidden never reaches global memory.
#pragma once

#include "inverted_residual.h"
#include "weight_tile.cuh"

namespace fastconv::cuda {

constexpr int kHaloTile = kBlockHalo * kChunkPitch;
constexpr int kFilteredTile = kBlockPixels * kChunkPitch;
constexpr int kExpandTile = kChunk * kChunkPitch;

// The rectangle of a thread block: of the output, and with its halo of the input.
struct Rectangle {
  int64_t image;
  int y, x, in_y, in_x;
  int halo_h, halo_w;

  FASTCONV_INLINE Rectangle(const InvertedResidualBlockParams& p, uint32_t block) {
    const uint32_t across = uint32_t(div_up<int64_t>(p.out_width, p.tile_w));
    const uint32_t down = uint32_t(div_up<int64_t>(p.out_height, p.tile_h));
    image = block / (across * down);
    y = int(block / across % down) * p.tile_h, x = int(block % across) * p.tile_w;
    in_y = y * int(p.stride_h) - int(p.pad_top), in_x = x * int(p.stride_w) - int(p.pad_left);
    halo_h = halo_of(p.tile_h, p.kernel_h, p.stride_h, p.dilation_h);
    halo_w = halo_of(p.tile_w, p.kernel_w, p.stride_w, p.dilation_w);
  }
  // Whether a pixel of the halo lies in the image, and which it is there.
  FASTCONV_INLINE bool inside(const InvertedResidualBlockParams& p, int pixel) const {
    const int h = in_y + pixel / halo_w, w = in_x + pixel % halo_w;
    return pixel < halo_h * halo_w && h >= 0 && h < p.height && w >= 0 && w < p.width;
  }
  FASTCONV_INLINE int64_t pixel_of(const InvertedResidualBlockParams& p, int pixel) const {
    const int64_t row = image * p.height + in_y + pixel / halo_w;
    return row * p.width + in_x + pixel % halo_w;
  }
};

// 32 channels of the halo's pixels.
template <class T>
FASTCONV_INLINE void bring_halo(T* tile, const InvertedResidualBlockParams& p, const Rectangle& r,
                                int64_t first_channel) {
  const T* input = static_cast<const T*>(p.input);
#pragma unroll 1
  for (int i = threadIdx.x; i < kBlockHalo * kChunk / 8; i += kBlockThreads) {
    const int pixel = i / (kChunk / 8), channel = i % (kChunk / 8) * 8;
    const int64_t c = first_channel + channel;
    const bool inside = c < p.in_channels && r.inside(p, pixel);
    copy_async(tile + pixel * kChunkPitch + channel,
               input + (inside ? r.pixel_of(p, pixel) * p.in_channels + c : 0), inside);
  }
}

template <class T>
FASTCONV_INLINE float bias_of(const void* bias, int64_t channel, int64_t channels) {
  return bias && channel < channels ? widen(static_cast<const T*>(bias)[channel]) : 0.0f;
}

// hidden = activation(sums + bias) for this warp's 32 pixels of the halo; zeros in the padding.
template <class T>
FASTCONV_INLINE void keep_hidden(T* hidden, Sums<32, kChunk>& sums, int64_t first_channel,
                                 const InvertedResidualBlockParams& p, const Rectangle& r) {
  const int group = threadIdx.x % 32 / 4, thread = threadIdx.x % 4;
  const int first_row = threadIdx.x / 32 * 32;
#pragma unroll
  for (int j = 0; j < kChunk / 8; ++j) {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const float bias =
          bias_of<T>(p.expand_bias, first_channel + 8 * j + 2 * thread + k, p.hidden);
#pragma unroll
      for (int i = 0; i < 4; ++i) sums.values[i / 2][j][i % 2 * 2 + k] += bias;
    }
  }
  dispatch_activation(p.activation, [&](auto act) {
    using Act = decltype(act);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = first_row + 8 * i + group;
      const bool inside = r.inside(p, row);
#pragma unroll
      for (int j = 0; j < kChunk / 8; ++j) {
        const float* pair = &sums.values[i / 2][j][i % 2 * 2];
        const float first = Act::forward(Rounded{pair[0]}).value;
        const float second = Act::forward(Rounded{pair[1]}).value;
        *reinterpret_cast<uint32_t*>(hidden + row * kChunkPitch + 8 * j + 2 * thread) =
            inside ? narrow_pair<T>(first, second) : 0;
      }
    }
  });
}

// The filters of a thread's two hidden channels, a word a tap.
template <class T, int kernel>
struct Filters {
  static constexpr int kTaps = kernel * kernel + (kernel == 0);
  uint32_t words[kTaps];
  bool finite = true;

  FASTCONV_INLINE Filters(const InvertedResidualBlockParams& p, int64_t channel) {
    if constexpr (kernel > 0) {
#pragma unroll
      for (int tap = 0; tap < kTaps; ++tap) {
        float pair[2] = {};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (channel < p.hidden) pair[i] = at(p, channel + i, tap / kernel, tap % kernel);
          finite &= pair[i] - pair[i] == 0;
        }
        words[tap] = narrow_pair<T>(pair[0], pair[1]);
      }
    }
  }
  static FASTCONV_INLINE float at(const InvertedResidualBlockParams& p, int64_t channel, int64_t y,
                                  int64_t x) {
    return widen(static_cast<const T*>(
        p.depthwise_weight)[channel * p.stride_channel + y * p.stride_row + x * p.stride_column]);
  }
};

// Two channels of kBlockStrip outputs in a row, from the halo's pixel `first` on. The zeros of the
// padding take part.
template <class T, int kernel, int stride>
FASTCONV_INLINE void filter(float (&sums)[kBlockStrip][2], const T* hidden, int first, int halo_w,
                            const Filters<T, kernel>& filters) {
#pragma unroll
  for (int y = 0; y < kernel; ++y) {
#pragma unroll
    for (int x = 0; x < (kBlockStrip - 1) * stride + kernel; ++x) {
      const int pixel = min_of(first + y * halo_w + x, kBlockHalo - 1);
      const uint32_t word = *reinterpret_cast<const uint32_t*>(hidden + pixel * kChunkPitch);
      const float low = widen_half<T>(word, 0), high = widen_half<T>(word, 1);
#pragma unroll
      for (int o = 0; o < kBlockStrip; ++o) {
        const int tap = x - o * stride;
        if (tap < 0 || tap >= kernel) continue;
        sums[o][0] += low * widen_half<T>(filters.words[y * kernel + tap], 0);
        sums[o][1] += high * widen_half<T>(filters.words[y * kernel + tap], 1);
      }
    }
  }
}

// The same for any window, one output; taps in the padding are skipped, so that an infinite weight
// makes no NaN there.
template <class T>
FASTCONV_INLINE void filter_any(float (&sums)[2], const T* hidden, int oy, int ox, int64_t channel,
                                const InvertedResidualBlockParams& p, const Rectangle& r) {
  for (int y = 0; y < p.kernel_h; ++y) {
    for (int x = 0; x < p.kernel_w; ++x) {
      const int row = oy * int(p.stride_h) + y * int(p.dilation_h);
      const int pixel = row * r.halo_w + ox * int(p.stride_w) + x * int(p.dilation_w);
      if (!r.inside(p, pixel)) continue;
      const uint32_t word = *reinterpret_cast<const uint32_t*>(hidden + pixel * kChunkPitch);
      sums[0] += widen_half<T>(word, 0) * Filters<T, 0>::at(p, channel, y, x);
      sums[1] += widen_half<T>(word, 1) * Filters<T, 0>::at(p, channel + 1, y, x);
    }
  }
}

// kernel, stride: of the depthwise part, square, or 0 for any; outs: output channels, at least.
template <int dtype, int kernel, int stride, int outs, int known_ins = 0, int known_hidden = 0,
          int known_outs = 0>
__global__ void __launch_bounds__(kBlockThreads, fused_blocks(kernel, outs))
    inverted_residual_fused(const InvertedResidualBlockParams params) {
  const InvertedResidualBlockParams& p = with_channels<known_ins, known_hidden, known_outs>(params);
  using T = element_t<dtype>;
  const int chunks = p.expands ? int(div_up<int64_t>(p.in_channels, kChunk)) : 0;
  FASTCONV_SHARED(shared);
  T* inputs = reinterpret_cast<T*>(shared);  // (chunks, kHaloTile); two slices without expansion
  T* hidden_tile = inputs + chunks * kHaloTile;
  T* filtered = inputs + (p.expands ? chunks + 1 : 2) * kHaloTile;
  T* projects = filtered + kFilteredTile;          // (2, outs * kChunkPitch)
  T* expands = projects + 2 * outs * kChunkPitch;  // (2, chunks, kExpandTile)

  const Rectangle r(p, blockIdx.x);
  const int warp = threadIdx.x / 32, slices = int(div_up<int64_t>(p.hidden, kChunk));
  const auto bring_slice = [&](int slice) {
    const int64_t first = int64_t(slice) * kChunk;
    if (!p.expands) bring_halo(inputs + slice % 2 * kHaloTile, p, r, first);
#pragma unroll 1
    for (int chunk = 0; chunk < chunks; ++chunk) {
      bring_weight<kChunk, kBlockThreads>(expands + (slice % 2 * chunks + chunk) * kExpandTile,
                                          p.expand, first, int64_t(chunk) * kChunk);
    }
    bring_weight<outs, kBlockThreads>(projects + slice % 2 * outs * kChunkPitch, p.project, 0,
                                      first);
  };
#pragma unroll 1
  for (int chunk = 0; chunk < chunks; ++chunk) {
    bring_halo(inputs + chunk * kHaloTile, p, r, int64_t(chunk) * kChunk);
  }
  bring_slice(0);
  commit_copies();

  const int channel = threadIdx.x % (kChunk / 2) * 2;  // this thread's in the depthwise part
  const int strips = (p.tile_w + kBlockStrip - 1) / kBlockStrip;
  Sums<16, outs> sums;
  sums.clear();
#pragma unroll 1
  for (int slice = 0; slice < slices; ++slice) {
    const int64_t first = int64_t(slice) * kChunk, mine = first + channel;
    wait_copies<0>();
    __syncthreads();
    if (slice + 1 < slices) bring_slice(slice + 1);
    commit_copies();

    const T* hidden = p.expands ? hidden_tile : inputs + slice % 2 * kHaloTile;
    if (p.expands) {
      if (32 * warp < r.halo_h * r.halo_w) {
        Sums<32, kChunk> expanded;
        expanded.clear();
#pragma unroll 1
        for (int chunk = 0; chunk < chunks; ++chunk) {
          const T* weight = expands + (slice % 2 * chunks + chunk) * kExpandTile;
          expanded.add(Operand<T>{inputs + chunk * kHaloTile, kChunkPitch, true}, 32 * warp,
                       weight_operand<kChunk>(weight, p.expand), 0,
                       int(p.in_channels) - chunk * kChunk);
        }
        keep_hidden(hidden_tile, expanded, first, p, r);
      }
    }
    const Filters<T, kernel> filters(p, mine);
    if (p.expands) __syncthreads();

    const float bias[2] = {bias_of<T>(p.depthwise_bias, mine, p.hidden),
                           bias_of<T>(p.depthwise_bias, mine + 1, p.hidden)};
#pragma unroll 1
    for (int strip = threadIdx.x / (kChunk / 2); strip < p.tile_h * strips;
         strip += kBlockThreads / (kChunk / 2)) {
      const int y = strip / strips, x = strip % strips * kBlockStrip;
      float results[kBlockStrip][2];
#pragma unroll
      for (auto& result : results) result[0] = bias[0], result[1] = bias[1];
      bool done = false;
      if constexpr (kernel > 0) {
        done = filters.finite;
        if (done)
          filter<T, kernel, stride>(results, hidden + channel, y * stride * r.halo_w + x * stride,
                                    r.halo_w, filters);
      }
      if (!done && mine < p.hidden) {
#pragma unroll
        for (int o = 0; o < kBlockStrip; ++o) {
          if (x + o < p.tile_w) filter_any(results[o], hidden + channel, y, x + o, mine, p, r);
        }
      }
      dispatch_activation(p.activation, [&](auto act) {
        using Act = decltype(act);
#pragma unroll
        for (int o = 0; o < kBlockStrip; ++o) {
          const float low = Act::forward(Rounded{results[o][0]}).value;
          const float high = Act::forward(Rounded{results[o][1]}).value;
          if (x + o < p.tile_w) {
            T* to = filtered + (y * p.tile_w + x + o) * kChunkPitch + channel;
            *reinterpret_cast<uint32_t*>(to) = narrow_pair<T>(low, high);
          }
        }
      });
    }
    __syncthreads();
    sums.add(Operand<T>{filtered, kChunkPitch, true}, 16 * warp,
             weight_operand<outs>(projects + slice % 2 * outs * kChunkPitch, p.project), 0,
             int(p.hidden) - slice * kChunk);
  }

  const int thread = threadIdx.x % 4;
#pragma unroll
  for (int j = 0; j < outs / 8; ++j) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      sums.values[0][j][k] +=
          bias_of<T>(p.project_bias, 8 * j + 2 * thread + k % 2, p.out_channels);
    }
  }
  write(sums, static_cast<const T*>(p.residual), static_cast<T*>(p.output), p.project_activation,
        [&](int row, int column) {
          const int pixel = 16 * warp + row;
          const int64_t y = r.y + pixel / p.tile_w, x = r.x + pixel % p.tile_w;
          const bool inside = pixel < p.tile_h * p.tile_w && y < p.out_height && x < p.out_width &&
                              column < p.out_channels;
          const int64_t q = (r.image * p.out_height + y) * p.out_width + x;
          return inside ? q * p.out_channels + column : int64_t(-1);
        });
}

}  // namespace fastconv::cuda
