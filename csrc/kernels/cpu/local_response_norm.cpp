// Local response normalisation on the CPU. Every window is summed afresh: a running sum would carry
// a NaN, or the rounding of a large value, into channels it does not belong to.
#include "../local_response_norm.h"

#include "local_response_norm_by_four.h"

namespace fastconv::FASTCONV_ISA {
namespace {

template <class T, int kRows, class Power>
struct NormaliseRow {
  const T* x;       // this channel
  const T* window;  // the first channel of the window
  T* y;
  int64_t rows, step;
  Power power;

  template <class Lanes>
  FASTCONV_INLINE void operator()(int64_t i, Lanes lanes) const {
    // The hardware starts anew at every run, a page or more apart (1.5 times slower from memory).
    prefetch(window + rows * step + i);
    const auto sum = sum_of_squares<kRows>(window + i, rows, step, lanes);
    store(y + i, load(x + i, lanes) * power(sum), lanes);
  }
};

template <class T, class Body>
FASTCONV_INLINE void walk(bool streams, int64_t count, const Body& body) {
  if (streams) {
    for_each_vector_streamed<T>(body.y, count, body);
  } else {
    for_each_vector<T>(count, body);
  }
}

// Channels outside, pixels inside: the rows of a window stay in L1 until their last use.
template <class T, int kRows, class Power>
void normalise_nchw(const LocalResponseNormParams& p, int64_t begin, int64_t end) {
  const bool streams = local_response_norm_streams(p);
  const Power power(p);
  for (int64_t unit = begin; unit < end; ++unit) {
    const auto [start, count] = planes_tile(p, unit);
    const T* x = static_cast<const T*>(p.input) + start;
    T* y = static_cast<T*>(p.output) + start;
    for (int64_t c = 0; c < p.channels; ++c) {
      const Window w(p, c);
      const T* row = x + c * p.pixels;
      const T* window = x + w.first * p.pixels;
      T* out = y + c * p.pixels;
      if (w.rows == kRows) {
        walk<T>(streams, count,
                NormaliseRow<T, kRows, Power>{row, window, out, kRows, p.pixels, power});
      } else {
        walk<T>(streams, count,
                NormaliseRow<T, 0, Power>{row, window, out, w.rows, p.pixels, power});
      }
    }
  }
}

template <class T>
struct NormaliseFour {
  RowsAround<T> rows;
  ThreeQuarters<VecF> power;
  int64_t channels;

  template <class Lanes>
  FASTCONV_INLINE void operator()(int64_t i, Lanes lanes, VecF (&y)[kFour]) const {
    VecF x[kAround];
    rows.load_all(i, lanes, x);
    const FourPowers powers(power, x);
    if (__builtin_expect(!powers.all_regular(), 0)) {
      VecF mended[kFour];
      mend(*this, i, lanes, mended);
      for (int r = 0; r < kFour; ++r) y[r] = mended[r];
    } else {
      finish(x, powers, y);
    }
  }

 private:
  template <class Lanes>
  __attribute__((noinline, cold)) static void mend(NormaliseFour self, int64_t i, Lanes lanes,
                                                   VecF (&y)[kFour]) {
    VecF x[kAround];
    self.rows.load_all(i, lanes, x);
    FourPowers powers(self.power, x);
    powers.mend(self.power, x, self.channels);
    finish(x, powers, y);
  }

  FASTCONV_INLINE static void finish(const VecF (&x)[kAround], const FourPowers& powers,
                                     VecF (&y)[kFour]) {
    for (int r = 0; r < kFour; ++r) y[r] = (x[r + 2] * powers.rough[r]) * powers.correction[r];
  }
};

// The same for windows of five.
template <class T>
void normalise_by_four(const LocalResponseNormParams& p, void* scratch, int64_t begin,
                       int64_t end) {
  const int64_t tile = local_response_norm_pixels_a_unit(p);
  T *zeros = static_cast<T*>(scratch), *ignored = zeros + tile;
  std::memset(zeros, 0, sizeof(T) * tile);
  const ThreeQuarters<VecF> power(p);
  for (int64_t unit = begin; unit < end; ++unit) {
    const auto [start, count] = planes_tile(p, unit);
    const T* x = static_cast<const T*>(p.input) + start;
    T* y = static_cast<T*>(p.output) + start;
    for (int64_t c = 0; c < p.channels; c += kFour) {
      T* row[kFour];
      for (int r = 0; r < kFour; ++r) {
        row[r] = c + r < p.channels ? y + (c + r) * p.pixels : ignored;
      }
      // Lines that two rows share are not written whole, but read first (streamed 16x96x55x55 4 %
      // faster; backward gained nothing).
      for (int r = 0; r <= kFour; ++r) prefetch(y + (c + kFour + r) * p.pixels);
      const NormaliseFour<T> four{{p, x, c, zeros}, power, p.channels - c};
      for_each_four<T>(local_response_norm_streams(p), row, count, four);
    }
  }
}

// Vectors along the channels of one pixel: its copy has zeros around, so the window of every lane
// is a shifted load.
template <class T, int kRows, class Power>
struct NormalisePixel {
  const accumulate_t<T>* x;  // channel 0 in the copy
  T* y;
  int64_t before, rows;
  Power power;

  template <class Lanes>
  FASTCONV_INLINE void operator()(int64_t c, Lanes lanes) const {
    const auto sum = sum_of_squares<kRows>(x + c - before, rows, 1, AllLanes{});
    store(y + c, load(x + c) * power(sum), lanes);
  }
};

template <class T, int kRows, class Power>
void normalise_nhwc(const LocalResponseNormParams& p, void* scratch, int64_t begin, int64_t end) {
  const PixelCopies<T> copies(p, static_cast<accumulate_t<T>*>(scratch));
  const int64_t C = p.channels, a_unit = local_response_norm_pixels_a_unit(p);
  const int64_t last = min_of(end * a_unit, p.batch * p.pixels);
  const T* x = static_cast<const T*>(p.input);
  T* y = static_cast<T*>(p.output);
  const int64_t rows = local_response_norm_rows(p);
  const bool streams = local_response_norm_streams(p);
  const Power power(p);
  for (int64_t first = begin * a_unit; first < last; first += copies.count) {
    const int64_t count = min_of(copies.count, last - first);
    copies.fill(x + first * C, count);
    for (int64_t i = 0; i < count; ++i) {
      walk<T>(streams, C,
              NormalisePixel<T, kRows, Power>{copies.pixel(i), y + (first + i) * C, p.before, rows,
                                              power});
    }
  }
}

void run(const LocalResponseNormParams& p, void* scratch, int64_t begin, int64_t end) {
  dispatch_local_response_norm(p, [&](auto element, auto rows, auto power) {
    using T = decltype(element);
    using Power = typename decltype(power)::type;
    constexpr int kRows = decltype(rows)::value;
    if (p.layout == Layout::kNHWC) {
      normalise_nhwc<T, kRows, Power>(p, scratch, begin, end);
    } else if constexpr (kRows == 5 && std::is_same_v<Power, ThreeQuarters<VecF>>) {
      normalise_by_four<T>(p, scratch, begin, end);
    } else {
      normalise_nchw<T, kRows, Power>(p, begin, end);
    }
  });
  if (local_response_norm_streams(p)) stream_fence();
}

}  // namespace

const LocalResponseNormKernels local_response_norm_kernels = {run};

}  // namespace fastconv::FASTCONV_ISA
