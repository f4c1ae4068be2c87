// Convolution of an image with few channels on the CPU. The rows of the image that an output row
// reads are kept in a ring, cut by the stride into phases: every tap then finds the pixels of a
// tile side by side, whatever the stride, the layout and the padding.
#include "../stem_conv2d.h"

#include "registry.h"
#include "simd/pairs.h"
#include "simd/tiles.h"
#include "simd/vectors.h"
#include "stage.h"
#include "stem_conv2d_bfloat16.h"
#include "stem_conv2d_tile.h"
#include "streaming.h"

namespace fastconv::FASTCONV_ISA {
namespace {

template <class S>
FASTCONV_INLINE int64_t whole_vectors(int64_t elements) {
  return div_up<int64_t>(elements, kLanes<S>) * kLanes<S>;
}

// The scratch of a thread: the ring, an output row where it needs another pass, the taps' offsets
// in the ring and in a row of it.
template <class S>
struct Buffers {
  int64_t phase, row;  // elements of one phase of one channel, of a row of the ring
  int64_t ring, output_row;
  int64_t taps_a_row, taps;

  explicit Buffers(const StemConv2dParams& p) {
    phase = whole_vectors<S>(p.out_width + (p.kernel_w - 1) / p.stride_w);
    row = p.channels * p.stride_w * phase;
    ring = p.kernel_h * row;
    output_row = whole_vectors<S>(p.out_width * p.out_channels);
    output_row += (ring + output_row) % 2;  // an offset behind it is as wide as two floats
    taps_a_row = p.kernel_w * p.channels;
    taps = p.kernel_h * taps_a_row;
  }
  int64_t bytes() const {
    return (ring + output_row) * int64_t(sizeof(S)) +
           (taps + taps_a_row) * int64_t(sizeof(int64_t));
  }
};

template <class T>
FASTCONV_INLINE bool must_prepare(const StemConv2dParams& p) {
  return kWidens<T> || !stem_conv2d_weight_is_packed(p);
}

template <class T>
FASTCONV_INLINE int64_t prepared_weights(const StemConv2dParams& p) {
  return whole_vectors<accumulate_t<T>>(p.kernel_h * p.kernel_w * p.channels * p.out_channels);
}

template <class T>
StemConv2dPlan plan_as(const StemConv2dParams& p) {
  using S = accumulate_t<T>;
  StemConv2dPlan plan{};
  if (must_prepare<T>(p)) {
    plan.prepared_bytes = (prepared_weights<T>(p) + p.out_channels) * sizeof(S);
  }
  plan.units = p.batch * p.out_height;
  plan.scratch_bytes = Buffers<S>(p).bytes();
  return plan;
}

template <class T>
void prepare_as(const StemConv2dParams& p, accumulate_t<T>* prepared) {
  const T* weight = static_cast<const T*>(p.weight);
  accumulate_t<T>* to = prepared;
  for (int64_t h = 0; h < p.kernel_h; ++h) {
    for (int64_t w = 0; w < p.kernel_w; ++w, to += p.channels * p.out_channels) {
      stage(weight + h * p.weight_row_stride + w * p.weight_column_stride, p.weight_in_stride,
            p.weight_out_stride, to, p.out_channels, p.channels, p.out_channels);
    }
  }
  stage_bias<T>(p, prepared + prepared_weights<T>(p));
}

template <int64_t most>
FASTCONV_INLINE int64_t clamped(int64_t n) {
  return n < 0 ? 0 : min_of(n, most);
}

// A vector of from[0], from[step], from[2 step], ..., from the vectors that load_at reads.
template <int step, class T, class Load>
FASTCONV_INLINE vec_t<T> load_every(const T* from, const Load& load_at) {
  if constexpr (step == 1) {
    return load_at(from);
  } else {
    return even_lanes(load_every<step / 2>(from, load_at),
                      load_every<step / 2>(from + kLanes<T> * step / 2, load_at));
  }
}

template <int step, class T>
void take_vectors(const T* from, int64_t left, accumulate_t<T>* to, int64_t count) {
  constexpr int64_t L = kLanes<T>;
  const int64_t whole = min_of(count, left / step) / L * L;
  const T* const end = from + left;
  int64_t i = 0;
  for (; i < whole; i += L) {
    store(to + i, load_every<step>(from + i * step, [](const T* p) { return load(p); }));
  }
  if (i < count) {
    const auto masked = [&](const T* p) { return load_partial(p, clamped<L>(end - p)); };
    store_partial(to + i, load_every<step>(from + i * step, masked), count - i);
  }
}

// to[i] = from[i * step] for i < count; `left` elements may be read.
template <class T>
void take_every(const T* from, int64_t step, int64_t left, accumulate_t<T>* to, int64_t count) {
  if (step == 1) return take_vectors<1>(from, left, to, count);
  if (step == 2) return take_vectors<2>(from, left, to, count);
  if (step == 4) return take_vectors<4>(from, left, to, count);
  for (int64_t i = 0; i < count; ++i) to[i] = widen(from[i * step]);
}

// A row of image n into the ring: [channel][phase][pixel], zero where it is padding.
template <class T>
void stage_image_row(const StemConv2dParams& p, const Buffers<accumulate_t<T>>& b, int64_t n,
                     int64_t h, accumulate_t<T>* to) {
  const bool nhwc = p.layout == Layout::kNHWC;
  const int64_t pixel = nhwc ? p.channels : 1, S = p.stride_w;
  for (int64_t c = 0; c < p.channels; ++c) {
    const int64_t first = nhwc ? (n * p.height + h) * p.width * p.channels + c
                               : ((n * p.channels + c) * p.height + h) * p.width;
    const T* from = static_cast<const T*>(p.input) + first;
    for (int64_t r = 0; r < S; ++r, to += b.phase) {
      // Element j is pixel j * S + r - pad_left of the image; the ring was zeroed once.
      const int64_t begin = r >= p.pad_left ? 0 : div_up(p.pad_left - r, S);
      const int64_t x = begin * S + r - p.pad_left;
      const int64_t in_image = x < p.width ? (p.width - x - 1) / S + 1 : 0;
      const int64_t count = min_of(in_image, p.out_width + (p.kernel_w - 1) / S - begin);
      if (count <= 0) continue;
      const int64_t left = (p.width - 1 - x) * pixel + 1;
      take_every(from + x * pixel, S * pixel, left, to + begin, count);
    }
  }
}

// An output row of t.c_row channels a pixel into `to`, its taps as t has them.
template <class S>
void run_row(const StemConv2dParams& p, StemTile<S> t, S* to) {
  const StemTile<S> row = t;
  for (Range columns{}; columns.first < p.out_channels; columns.first += columns.count) {
    columns = stem_panel_at<S>(columns.first, p.out_channels);
    t.columns = columns.count, t.weight = row.weight + columns.first;
    if (row.bias != nullptr) t.bias = row.bias + columns.first;
    const int64_t most = columns.count > 2 * kLanes<S> ? kWideStemPixels : kStemPixels;
    const int64_t tiles = div_up(p.out_width, most);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const Range pixels = part_of(p.out_width, tiles, tile);
      t.rows = pixels.count, t.c = to + pixels.first * p.out_channels + columns.first;
      t.image = row.image + pixels.first;
      stem_tile(t);
    }
  }
}

// Narrows a row, or activates it by more than a clamp.
template <class T>
void finish_row(Activation activation, const accumulate_t<T>* from, T* to, int64_t elements,
                bool streams) {
  dispatch_activation(activation, [&](auto op) {
    const auto finish = [&](int64_t i, auto lanes) {
      store(to + i, decltype(op)::forward(load(from + i, lanes)), lanes);
    };
    streams ? for_each_vector_streamed<T>(to, elements, finish)
            : for_each_vector<T>(elements, finish);
  });
}

template <class T>
void run_as(const StemConv2dParams& p, const accumulate_t<T>* prepared, void* scratch,
            int64_t begin, int64_t end) {
  using S = accumulate_t<T>;
  constexpr S kInfinity = __builtin_inf();
  const Buffers<S> b(p);
  S* const ring = static_cast<S*>(scratch);
  S* const output_row = ring + b.ring;
  auto* const offsets = reinterpret_cast<int64_t*>(output_row + b.output_row);
  int64_t* const within_row = offsets + b.taps;
  for (int64_t i = 0; i < b.ring; ++i) ring[i] = 0;
  for (int64_t w = 0, i = 0; w < p.kernel_w; ++w) {
    for (int64_t c = 0; c < p.channels; ++c, ++i) {
      within_row[i] = (c * p.stride_w + w % p.stride_w) * b.phase + w / p.stride_w;
    }
  }

  const Activation act = p.activation;
  const bool clamps = act != Activation::kSiLU && act != Activation::kHardswish;
  const bool direct = clamps && !kWidens<T>, packs = must_prepare<T>(p);
  const int64_t elements = p.out_width * p.out_channels;
  const bool streams = p.batch * p.out_height * elements * int64_t(sizeof(T)) >= kStreamedBytes;
  const S* weight = packs ? prepared : static_cast<const S*>(p.weight);
  StemTile<S> t{};
  t.image = ring, t.offsets = offsets;
  if (p.bias != nullptr) {
    t.bias = packs ? prepared + prepared_weights<T>(p) : static_cast<const S*>(p.bias);
  }
  t.weight_row = t.c_row = p.out_channels;
  t.low = act == Activation::kNone || !clamps ? -kInfinity : 0;
  t.high = act == Activation::kReLU6 ? 6 : kInfinity;
  t.streams = direct && streams && p.out_channels % kLanes<S> == 0 &&
              reinterpret_cast<uintptr_t>(p.output) % (kLanes<S> * sizeof(S)) == 0;

  int64_t staged = 0, image = -1;  // rows of the image from here on are not in the ring
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / p.out_height, top = unit % p.out_height * p.stride_h - p.pad_top;
    const int64_t first = max_of<int64_t>(top, 0), last = min_of(top + p.kernel_h, p.height);
    staged = n == image ? max_of(staged, first) : first;
    image = n;
    for (; staged < last; ++staged) {
      stage_image_row<T>(p, b, n, staged, ring + staged % p.kernel_h * b.row);
    }
    t.taps = 0;  // of the rows within the image: an infinite weight makes no NaN above or below it
    for (int64_t h = first; h < last; ++h) {
      const int64_t row = h % p.kernel_h * b.row;
      for (int64_t i = 0; i < b.taps_a_row; ++i) offsets[t.taps++] = row + within_row[i];
    }
    t.weight = weight + (first - top) * b.taps_a_row * p.out_channels;
    T* const output = static_cast<T*>(p.output) + unit * elements;
    if constexpr (!kWidens<T>) {
      if (direct) {
        run_row(p, t, output);
        continue;
      }
    }
    run_row(p, t, output_row);
    finish_row(act, output_row, output, elements, streams);
  }
}

// By pairs of taps where one instruction multiplies them, in us by pairs / by floats: 3 -> 32, 3x3,
// stride 2, 224x224: 85 / 116, 3 -> 64, 7x7: 526 / 903; elsewhere, with AVX-512: 140 / 116, 978 /
// 900, with AVX2: 291 / 236, 2685 / 1931 (one core of a Zen 5). Matrix tiles multiply pairs alone.
template <class T>
constexpr bool kByPairs = std::is_same_v<T, bfloat16> && (kMultipliesPairs || kHasTiles);

StemConv2dPlan plan(const StemConv2dParams& p) {
  StemConv2dPlan result{};
  dispatch_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    if constexpr (kByPairs<T>) {
      result = plan_stem_bfloat16(p);
    } else {
      result = plan_as<T>(p);
    }
  });
  return result;
}

void prepare(const StemConv2dParams& p, void* prepared) {
  dispatch_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    if constexpr (kByPairs<T>) {
      prepare_stem_bfloat16(p, prepared);
    } else {
      prepare_as<T>(p, static_cast<accumulate_t<T>*>(prepared));
    }
  });
}

void run(const StemConv2dParams& p, const void* prepared, void* scratch, int64_t begin,
         int64_t end) {
  dispatch_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    if constexpr (kByPairs<T>) {
      run_stem_bfloat16(p, prepared, scratch, begin, end);
    } else {
      run_as<T>(p, static_cast<const accumulate_t<T>*>(prepared), scratch, begin, end);
    }
  });
  stream_fence();
}

}  // namespace

const StemConv2dKernels stem_conv2d_kernels = {plan, prepare, run};

}  // namespace fastconv::FASTCONV_ISA
