// Max pooling on the CPU: one pass over memory, the windows from the caches.
#include "../max_pool2d.h"

#include <type_traits>

#include "registry.h"
#include "simd/maximum.h"
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

// The maximum of NV vectors of channels over a window of an image with `channels` of them.
template <class T, int NV, class Lanes>
FASTCONV_INLINE void pool_vectors(const T* image, int64_t width, int64_t channels, Window s,
                                  T* output, Lanes lanes) {
  constexpr int L = kLanes<T>;
  vec_t<T> maximum[NV];
#pragma GCC unroll 4
  for (int j = 0; j < NV; ++j) maximum[j] = vec_t<T>::set1(-kInfinity);
  for (int64_t h = s.first_row; h < s.last_row; ++h) {
    for (int64_t w = s.first_column; w < s.last_column; ++w) {
      const T* pixel = image + (h * width + w) * channels;
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) maximum[j] = max_or_nan(load(pixel + j * L, lanes), maximum[j]);
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < NV; ++j) store(output + j * L, maximum[j], lanes);
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

// A band of rows, contiguous: the maxima of columns go to slots in the L1 cache, a row of slots for
// each row of the output, padding among them; windows then run along the slots.
constexpr int64_t kSlotBytes = 16 << 10;
// Few rows a band, so that reading from memory goes on: 16 KiB: +5% at 16x64x112x112, +3% at
// 16x256x28x28 (one core of an Intel Xeon with AMX, kernels in turn).
constexpr int64_t kBandBytes = 4 << 10;
// What comes that many bytes later is asked for where rows are whole vectors. Without: +7% at both;
// of rows of 14, which have no whole vector, it would cost 5 to 13%.
constexpr int64_t kAhead = 2 << 10;
template <class T>
constexpr int64_t kSlots = kSlotBytes / sizeof(accumulate_t<T>);

// Slots for the windows of `count` outputs, and for what the last vectors read past them.
template <class T>
FASTCONV_INLINE int64_t slots_of(const MaxPool2dParams& p, int64_t count) {
  return count * p.stride_w + p.kernel_w + 2 * kLanes<T>;
}

// The maxima of `count` columns over `rows` rows. Kernel, unless it is 0, is at least rows: they
// are read as that many, the last one repeated.
template <int Kernel, class T>
FASTCONV_INLINE void pool_columns(const T* from, int64_t rows, int64_t width, int64_t count,
                                  accumulate_t<T>* slots) {
  const auto row = [&](int64_t h) { return from + (Kernel ? min_of(h, rows - 1) : h) * width; };
  const T* ahead = row(rows - 1) + kAhead / sizeof(T);
  const T* ahead_above = rows > 1 ? ahead - width : ahead;
  for_each_vector<T>(count, [&](int64_t i, auto lanes) {
    auto maximum = load(from + i, lanes);
#pragma GCC unroll 4
    for (int64_t h = 1; h < (Kernel ? Kernel : rows); ++h) {
      maximum = max_or_nan(load(row(h) + i, lanes), maximum);
    }
    store(slots + i, maximum, lanes);
    if constexpr (std::is_same_v<decltype(lanes), AllLanes>) {
      prefetch(ahead + i);
      prefetch(ahead_above + i);
    }
  });
}

// The maxima of `count` windows of `kernel` slots, Stride (1 or 2) slots apart; Kernel is kernel,
// or 0 where that is not known.
template <int Stride, int Kernel, class S, class T>
FASTCONV_INLINE void pool_slots(const S* slots, int64_t kernel, int64_t count, T* output) {
  constexpr int L = kLanes<T>;
  const auto at = [&](const S* from) {
    return Stride == 1 ? load(from) : even_lanes(load(from), load(from + L));
  };
  for_each_vector<T>(count, [&](int64_t w, auto lanes) {
    auto maximum = at(slots + Stride * w);
#pragma GCC unroll 4
    for (int64_t k = 1; k < (Kernel ? Kernel : kernel); ++k) {
      maximum = max_or_nan(at(slots + Stride * w + k), maximum);
    }
    store(output + w, maximum, lanes);
  });
}

// The same for any stride: all windows, of which every stride-th is taken.
template <class S, class T>
void pool_slots_far(const S* slots, int64_t kernel, int64_t stride, int64_t count, T* output) {
  S all[kSlots<S>];
  pool_slots<1, 0>(slots, kernel, (count - 1) * stride + 1, all);
  for (int64_t w = 1; w < count; ++w) all[w] = all[w * stride];
  for_each_vector<T>(
      count, [&](int64_t w, auto lanes) { store(output + w, load(all + w, lanes), lanes); });
}

// `count` columns of the output of a plane from first_w on, whose slots fit. Stride is 1, 2 or, for
// others, 0; Kernel is the size of a window or, where it is another or no square, 0.
template <int Stride, int Kernel, class T>
void pool_plane(const MaxPool2dParams& p, const T* plane, int64_t first_w, int64_t count,
                accumulate_t<T>* slots, T* output) {
  const int64_t pitch = slots_of<T>(p, count), left = first_w * p.stride_w - p.pad_left;
  const int64_t first = max_of<int64_t>(left, 0);
  const int64_t last = min_of(left + (count - 1) * p.stride_w + p.kernel_w, p.width);
  const int64_t band = max_of<int64_t>(1, kBandBytes / int64_t(sizeof(*slots)) / pitch);
  for (int64_t begin = 0; begin < p.out_height; begin += band) {
    const int64_t end = min_of(begin + band, p.out_height);
    accumulate_t<T>* row = slots;
    for (int64_t h = begin; h < end; ++h, row += pitch) {
      const Window s = window_at(p, h, 0);
      pool_columns<Kernel>(plane + s.first_row * p.width + first, s.last_row - s.first_row, p.width,
                           last - first, row + first - left);
    }
    row = slots;
    T* to = output + begin * p.out_width + first_w;
    for (int64_t h = begin; h < end; ++h, row += pitch, to += p.out_width) {
      if constexpr (Stride == 0) {
        pool_slots_far(row, p.kernel_w, p.stride_w, count, to);
      } else {
        pool_slots<Stride, Kernel>(row, p.kernel_w, count, to);
      }
    }
  }
}

template <int Stride, class T>
auto pool_plane_of(const MaxPool2dParams& p) {
  const int64_t kernel = p.kernel_h == p.kernel_w ? p.kernel_w : 0;
  return kernel == 3   ? pool_plane<Stride, 3, T>
         : kernel == 2 ? pool_plane<Stride, 2, T>
                       : pool_plane<Stride, 0, T>;
}

template <class T>
void pool_nchw(const MaxPool2dParams& p, int64_t begin, int64_t end) {
  alignas(64) accumulate_t<T> slots[kSlots<T>];
  const auto pool = p.stride_w == 1   ? pool_plane_of<1, T>(p)
                    : p.stride_w == 2 ? pool_plane_of<2, T>(p)
                                      : pool_plane<0, 0, T>;
  const int64_t room = (kSlots<T> - slots_of<T>(p, 0)) / p.stride_w;
  for (int64_t unit = begin; unit < end; ++unit) {
    const T* plane = static_cast<const T*>(p.input) + unit * p.height * p.width;
    T* output = static_cast<T*>(p.output) + unit * p.out_height * p.out_width;
    if (room < 1) {  // windows wider than the slots: a pixel at a time
      for (int64_t i = 0; i < p.out_height * p.out_width; ++i) {
        pool_vectors<T, 1>(plane, p.width, 1, window_at(p, i / p.out_width, i % p.out_width),
                           output + i, FirstLanes{1});
      }
      continue;
    }
    for (int64_t w = 0; w < p.out_width; w += room) {
      // Where padding lies other columns may have left theirs.
      if (unit == begin || p.out_width > room) {
        for_each_vector<accumulate_t<T>>(kSlots<T>, [&](int64_t i, auto lanes) {
          store(slots + i, vec_t<T>::set1(-kInfinity), lanes);
        });
      }
      pool(p, plane, w, min_of(room, p.out_width - w), slots, output);
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
