// Moves between a tensor and a strip: rows of one vector of channels, in the type that computes, a
// pixel a dense vector.
#pragma once

#include "depthwise_conv2d_paths.h"
#include "simd/transpose.h"

namespace fastconv::FASTCONV_ISA {

// n planes, plane_step elements apart, of which n <= kLanes fill the lanes; the other lanes are
// zero. Pixel i goes to pixels + i * kLanes.
template <class T>
FASTCONV_INLINE void planes_to_pixels(const T* planes, int64_t plane_step, int64_t n, int64_t count,
                                      accumulate_t<T>* pixels) {
  constexpr int L = kLanes<T>;
  vec_t<T> block[L];
  int64_t i = 0;
  for (; n == L && i + L <= count; i += L) {
#pragma GCC unroll 16
    for (int c = 0; c < L; ++c) block[c] = load(planes + c * plane_step + i);
    transpose(block);
#pragma GCC unroll 16
    for (int c = 0; c < L; ++c) store(pixels + (i + c) * L, block[c]);
  }
  for (; i < count; i += L) {
    const int64_t last = min_of<int64_t>(L, count - i);
    for (int c = 0; c < L; ++c) {
      block[c] = c < n ? load_partial(planes + c * plane_step + i, last) : vec_t<T>::set1(0);
    }
    transpose(block);
    for (int64_t j = 0; j < last; ++j) store(pixels + (i + j) * L, block[j]);
  }
}

template <class T>
FASTCONV_INLINE void pixels_to_planes(const accumulate_t<T>* pixels, int64_t count, T* planes,
                                      int64_t plane_step, int64_t n) {
  constexpr int L = kLanes<T>;
  vec_t<T> block[L];
  int64_t i = 0;
  for (; n == L && i + L <= count; i += L) {
#pragma GCC unroll 16
    for (int c = 0; c < L; ++c) block[c] = load(pixels + (i + c) * L);
    transpose(block);
#pragma GCC unroll 16
    for (int c = 0; c < L; ++c) store(planes + c * plane_step + i, block[c]);
  }
  for (; i < count; i += L) {
    const int64_t last = min_of<int64_t>(L, count - i);
    for (int j = 0; j < L; ++j) {
      block[j] = j < last ? load(pixels + (i + j) * L) : vec_t<T>::set1(0);
    }
    transpose(block);
    for (int64_t c = 0; c < n; ++c) store_partial(planes + c * plane_step + i, block[c], last);
  }
}

// The same for pixels that are pixel_step elements apart.
template <class T>
FASTCONV_INLINE void gather_pixels(const T* tensor, int64_t pixel_step, int64_t n, int64_t count,
                                   accumulate_t<T>* pixels) {
  constexpr int L = kLanes<T>;
  if (n == L) {
    for (int64_t i = 0; i < count; ++i) store(pixels + i * L, load(tensor + i * pixel_step));
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    store(pixels + i * L, load_partial(tensor + i * pixel_step, n));
  }
}

template <class T>
FASTCONV_INLINE void scatter_pixels(const accumulate_t<T>* pixels, int64_t count, T* tensor,
                                    int64_t pixel_step, int64_t n) {
  constexpr int L = kLanes<T>;
  if (n == L) {
    for (int64_t i = 0; i < count; ++i) store(tensor + i * pixel_step, load(pixels + i * L));
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    store_partial(tensor + i * pixel_step, load(pixels + i * L), n);
  }
}

// n channels from one on of an image in its layout: where pixel 0 lies, and how to move.
template <class T>
struct ChannelVector {
  T* first;
  int64_t step;  // between planes, or between pixels where they are dense
  int64_t n;
  Layout layout;

  FASTCONV_INLINE ChannelVector(T* tensor, Layout l, int64_t channels, int64_t pixels,
                                int64_t image, int64_t c, int64_t count)
      : n(count), layout(l) {
    const bool nhwc = l == Layout::kNHWC;
    first = tensor + image * channels * pixels + (nhwc ? c : c * pixels);
    step = nhwc ? channels : pixels;
  }

  template <class A>
  FASTCONV_INLINE void read(int64_t pixel, int64_t count, A* strip) const {
    if (layout == Layout::kNHWC) return gather_pixels(first + pixel * step, step, n, count, strip);
    planes_to_pixels(first + pixel, step, n, count, strip);
  }

  template <class A>
  FASTCONV_INLINE void write(int64_t pixel, int64_t count, const A* strip) const {
    if (layout == Layout::kNHWC) {
      return scatter_pixels(strip, count, first + pixel * step, step, n);
    }
    pixels_to_planes(strip, count, first + pixel, step, n);
  }
};

}  // namespace fastconv::FASTCONV_ISA
