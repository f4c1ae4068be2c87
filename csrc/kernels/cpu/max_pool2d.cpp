// Max pooling on the CPU: one pass over memory, the windows from the caches.
#include "../max_pool2d.h"

#include "registry.h"
#include "simd/vectors.h"

namespace fastconv::FASTCONV_ISA {
namespace {

constexpr double kInfinity = __builtin_inf();

// The part of a window that lies within the image.
struct Window {
  int64_t first_row, last_row, first_column, last_column;
};

FASTCONV_INLINE Window window_at(const MaxPool2dParams& p, int64_t h, int64_t w) {
  const int64_t top = h * p.stride_h - p.pad_top, left = w * p.stride_w - p.pad_left;
  return {max_of<int64_t>(top, 0), min_of(top + p.kernel_h, p.height), max_of<int64_t>(left, 0),
          min_of(left + p.kernel_w, p.width)};
}

// A maximum that a NaN wins: max takes either operand then, so NaNs are gathered beside it.
template <class V>
struct Maximum {
  V value = V::set1(-kInfinity), nan = V::set1(0);
  FASTCONV_INLINE void take(V x) {
    value = max(x, value);
    nan = nan + zero_where_le(x, x, V::set1(kInfinity));
  }
  FASTCONV_INLINE V result() const { return value + nan; }
};

// The maximum of NV vectors of channels over a window of an image with `channels` of them.
template <class T, int NV, class Lanes>
FASTCONV_INLINE void pool_vectors(const T* image, int64_t width, int64_t channels, Window s,
                                  T* output, Lanes lanes) {
  constexpr int L = kLanes<T>;
  Maximum<vec_t<T>> maximum[NV];
  for (int64_t h = s.first_row; h < s.last_row; ++h) {
    for (int64_t w = s.first_column; w < s.last_column; ++w) {
      const T* pixel = image + (h * width + w) * channels;
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) maximum[j].take(load(pixel + j * L, lanes));
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < NV; ++j) store(output + j * L, maximum[j].result(), lanes);
}

template <class T>
void pool_nhwc(const MaxPool2dParams& p, int64_t begin, int64_t end) {
  constexpr int64_t kBlock = 4 * kLanes<T>;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / p.out_height, h = unit % p.out_height, C = p.channels;
    const T* image = static_cast<const T*>(p.input) + n * p.height * p.width * C;
    T* output = static_cast<T*>(p.output) + unit * p.out_width * C;
    for (int64_t w = 0; w < p.out_width; ++w, output += C) {
      const Window window = window_at(p, h, w);
      int64_t c = 0;
      for (; c + kBlock <= C; c += kBlock) {
        pool_vectors<T, 4>(image + c, p.width, C, window, output + c, AllLanes{});
      }
      for_each_vector<T>(C - c, [&](int64_t i, auto lanes) {
        pool_vectors<T, 1>(image + c + i, p.width, C, window, output + c + i, lanes);
      });
    }
  }
}

template <class T>
void pool_nchw(const MaxPool2dParams& p, int64_t begin, int64_t end) {
  for (int64_t unit = begin; unit < end; ++unit) {
    const T* plane = static_cast<const T*>(p.input) + unit * p.height * p.width;
    T* output = static_cast<T*>(p.output) + unit * p.out_height * p.out_width;
    for (int64_t h = 0; h < p.out_height; ++h) {
      for (int64_t w = 0; w < p.out_width; ++w, ++output) {
        pool_vectors<T, 1>(plane, p.width, 1, window_at(p, h, w), output, FirstLanes{1});
      }
    }
  }
}

void forward(const MaxPool2dParams& p, int64_t begin, int64_t end) {
  dispatch_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    p.layout == Layout::kNHWC ? pool_nhwc<T>(p, begin, end) : pool_nchw<T>(p, begin, end);
  });
}

}  // namespace

const MaxPool2dKernels max_pool2d_kernels = {forward};

}  // namespace fastconv::FASTCONV_ISA
