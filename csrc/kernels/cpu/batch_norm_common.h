// What both passes of batch normalisation share: which elements a unit has, the coefficients of
// vectors of them, and the sums of all units brought together.
#pragma once

#include "../batch_norm.h"
#include "registry.h"
#include "simd/vectors.h"
#include "streaming.h"

namespace fastconv::FASTCONV_ISA {
namespace {

// The elements of a unit: rows of columns elements, one after the other.
struct BatchNormTile {
  int64_t start, rows, columns;
  int64_t channel;         // NCHW: of all elements
  double *first, *second;  // where the sums of the columns go; NCHW: one number each

  FASTCONV_INLINE BatchNormTile(const BatchNormParams& p, const BatchNormUnits& u, int64_t unit) {
    if (p.layout == Layout::kNHWC) {
      const int64_t row = min_of(unit * u.rows_a_unit, u.rows);
      start = row * u.columns;
      rows = min_of(u.rows_a_unit, u.rows - row);
      columns = u.columns;
      if (rows == 0) rows = 1, columns = u.rest * p.channels;
      channel = 0;
      first = p.partials + 2 * unit * u.columns;
    } else {
      const int64_t slab = unit / u.columns, column = unit % u.columns;
      const int64_t skipped = column % u.parts * kBatchNormPart;
      channel = column / u.parts;
      start = (slab * p.channels + channel) * p.pixels + skipped;
      rows = 1;
      columns = min_of(kBatchNormPart, p.pixels - skipped);
      first = p.partials + 2 * slab * u.columns + column;
    }
    second = first + u.columns;
  }
};

// A coefficient of each column, or the one of a channel.
template <class A>
struct OfColumns {
  const A* values;
  template <class Lanes>
  FASTCONV_INLINE vec_t<A> operator()(int64_t i, Lanes lanes) const {
    return load(values + i, lanes);
  }
};

template <class A>
struct OfChannel {
  vec_t<A> value;
  FASTCONV_INLINE explicit OfChannel(const A* values) : value(vec_t<A>::set1(*values)) {}
  template <class Lanes>
  FASTCONV_INLINE vec_t<A> operator()(int64_t, Lanes) const {
    return value;
  }
};

// The arrays of coefficients, each `width` long.
template <class A>
struct Coefficients {
  A *mean, *scale, *shift, *slope, *offset;
  int64_t width;

  FASTCONV_INLINE explicit Coefficients(const BatchNormParams& p)
      : mean(static_cast<A*>(p.coefficients)), width(batch_norm_pixels_a_row(p) * p.channels) {
    scale = mean + width;
    shift = scale + width;
    slope = shift + width;
    offset = slope + width;
  }
};

FASTCONV_INLINE double inverse_deviation(double var, double eps) {
  return 1 / __builtin_sqrt(var + eps);
}

// Gives every pixel of a row the coefficients of the first.
template <class A>
FASTCONV_INLINE void repeat(A* values, int64_t channels, int64_t width) {
  for (int64_t i = channels; i < width; ++i) values[i] = values[i - channels];
}

// z = (x - mean) * scale + shift, of which mean and scale serve backward too. A product with the
// mean alone would lose digits where it is far from zero.
template <class A>
FASTCONV_INLINE void fold_forward(const BatchNormParams& p) {
  const Coefficients<A> to(p);
  const A *mean = static_cast<const A*>(p.mean), *var = static_cast<const A*>(p.var);
  const A *weight = static_cast<const A*>(p.weight), *bias = static_cast<const A*>(p.bias);
  for (int64_t c = 0; c < p.channels; ++c) {
    to.mean[c] = mean[c];
    to.scale[c] = A(inverse_deviation(var[c], p.eps) * (weight ? weight[c] : 1));
    to.shift[c] = bias ? bias[c] : 0;
  }
  repeat(to.mean, p.channels, to.width);
  repeat(to.scale, p.channels, to.width);
  repeat(to.shift, p.channels, to.width);
}

// Calls row(tile, start) for the row of units that begins at element start; what it returns is the
// body of for_each_vector. Large results of training are stored past the caches.
template <class T, class F>
FASTCONV_INLINE void walk_rows(const BatchNormParams& p, int64_t begin, int64_t end, F&& row) {
  const BatchNormUnits u(p);
  const T* out = static_cast<const T*>(p.output);
  const bool streams = p.training && p.layout == Layout::kNHWC &&
                       wants_stream<T>(out, p.batch * p.pixels, p.channels);
  for (int64_t unit = begin; unit < end; ++unit) {
    const BatchNormTile tile(p, u, unit);
    for (int64_t r = 0; r < tile.rows; ++r) {
      const int64_t start = tile.start + r * tile.columns;
      const auto body = row(tile, start);
      if (streams) {
        for_each_vector_streamed<T>(out + start, tile.columns, body);
      } else {
        for_each_vector<T>(tile.columns, body);
      }
    }
  }
  if (streams) stream_fence();
}

// Calls f(element, activation).
template <class F>
FASTCONV_INLINE void dispatch_batch_norm(const BatchNormParams& p, F&& f) {
  dispatch_dtype(p.dtype, [&](auto element) {
    dispatch_activation(p.activation, [&](auto act) { f(element, act); });
  });
}

}  // namespace
}  // namespace fastconv::FASTCONV_ISA
