// Residual add on the CPU: one pass over memory.
#include "../residual_add.h"

#include "registry.h"
#include "simd/vectors.h"

namespace fastconv::FASTCONV_ISA {
namespace {

template <class T, class Act>
void add_run(const T* input, const T* residual, T* output, int64_t count) {
  constexpr int L = kLanes<T>;
  int64_t i = 0;
  for (; i + L <= count; i += L) {
    store(output + i, Act::forward(load(input + i) + load(residual + i)));
  }
  if (const int64_t rest = count - i) {
    const auto sum = load_partial(input + i, rest) + load_partial(residual + i, rest);
    store_partial(output + i, Act::forward(sum), rest);
  }
}

constexpr int64_t kBytesAhead = 4096;

// A run too long for the caches.
template <class T, class Act>
struct StreamedAdd {
  const T *input, *residual;
  T* output;

  template <class Lanes>
  FASTCONV_INLINE void operator()(int64_t i, Lanes lanes) const {
    constexpr int64_t kAhead = kBytesAhead / sizeof(T);
    prefetch(input + i + kAhead);
    prefetch(residual + i + kAhead);
    store(output + i, Act::forward(load(input + i, lanes) + load(residual + i, lanes)), lanes);
  }
};

template <class T, class Act>
void activate_run(const T* input, T* output, int64_t count) {
  constexpr int L = kLanes<T>;
  for (int64_t i = 0; i < count; i += L) {
    const int64_t n = min_of<int64_t>(L, count - i);
    store_partial(output + i, Act::forward(load_partial(input + i, n)), n);
  }
}

template <class T, class Act>
void add_same_size(const ResidualAddParams& p, int64_t begin, int64_t end) {
  const int64_t first = begin * kResidualAddBlock;
  const int64_t last = min_of(end * kResidualAddBlock, p.batch * p.channels * p.height * p.width);
  const T* input = static_cast<const T*>(p.input) + first;
  const T* residual = static_cast<const T*>(p.residual) + first;
  T* output = static_cast<T*>(p.output) + first;
  if (!residual_add_streams(p)) return add_run<T, Act>(input, residual, output, last - first);
  for_each_vector_streamed<T>(output, last - first, StreamedAdd<T, Act>{input, residual, output});
  stream_fence();
}

// One unit is one output row of one image.
template <class T, class Act>
void add_shortcut_nhwc(const ResidualAddParams& p, int64_t begin, int64_t end) {
  const int64_t C = p.channels, shared = p.residual_channels;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / p.height, h = unit % p.height;
    const T* input = static_cast<const T*>(p.input) + unit * p.width * C;
    T* output = static_cast<T*>(p.output) + unit * p.width * C;
    const T* residual = static_cast<const T*>(p.residual) +
                        (n * p.residual_height + h * p.stride) * p.residual_width * shared;
    for (int64_t w = 0; w < p.width; ++w) {
      add_run<T, Act>(input + w * C, residual + w * p.stride * shared, output + w * C, shared);
      activate_run<T, Act>(input + w * C + shared, output + w * C + shared, C - shared);
    }
  }
}

template <class T, class Act>
void add_shortcut_nchw(const ResidualAddParams& p, int64_t begin, int64_t end) {
  using V = vec_t<T>;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / p.height, h = unit % p.height;
    for (int64_t c = 0; c < p.channels; ++c) {
      const int64_t row = ((n * p.channels + c) * p.height + h) * p.width;
      const T* input = static_cast<const T*>(p.input) + row;
      T* output = static_cast<T*>(p.output) + row;
      if (c >= p.residual_channels) {
        activate_run<T, Act>(input, output, p.width);
        continue;
      }
      const T* residual =
          static_cast<const T*>(p.residual) +
          ((n * p.residual_channels + c) * p.residual_height + h * p.stride) * p.residual_width;
      if (p.stride == 1) {
        add_run<T, Act>(input, residual, output, p.width);
        continue;
      }
      for (int64_t w = 0; w < p.width; ++w) {
        const V sum = load_partial(input + w, 1) + load_partial(residual + w * p.stride, 1);
        store_partial(output + w, Act::forward(sum), 1);
      }
    }
  }
}

void forward(const ResidualAddParams& p, int64_t begin, int64_t end) {
  dispatch_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    dispatch_activation(p.activation, [&](auto act) {
      using Act = decltype(act);
      switch (residual_add_variant(p)) {
        case Variant::residual_add_same_size:
          return add_same_size<T, Act>(p, begin, end);
        case Variant::residual_add_shortcut_nhwc:
          return add_shortcut_nhwc<T, Act>(p, begin, end);
        default:
          return add_shortcut_nchw<T, Act>(p, begin, end);
      }
    });
  });
}

}  // namespace

const ResidualAddKernels residual_add_kernels = {forward};

}  // namespace fastconv::FASTCONV_ISA
