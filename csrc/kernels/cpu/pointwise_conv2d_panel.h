// Where the panels of the product lie, and how one comes into the output: the activation, the
// residual, the store.
#pragma once

#include "../pointwise_panels.h"
#include "gemm.h"
#include "registry.h"
#include "stage.h"
#include "streaming.h"

namespace fastconv::FASTCONV_ISA {

// Rows that pass through scratch at a time.
constexpr int64_t kScratchRows = 16;

// Where the units of channels_last lie: groups of row tiles, in them panels, in them tiles.
struct PanelGrid {
  int64_t rows, tiles, group, panels;
  int64_t wide;  // panels, which come first: four vectors, where others have two

  template <class S>
  FASTCONV_INLINE Range panel(int64_t i, int64_t columns) const {
    if (i >= wide) return panel_at<S>(i + wide, columns);
    return {i * kMostColumns<S>, min_of(kMostColumns<S>, columns - i * kMostColumns<S>)};
  }
};

// The weights of `count` output channels, as they were given.
template <class T>
struct Weights {
  const T* first;
  int64_t out_stride, in_stride, count;
};

// Those from one output channel on, all but where they lie in panels.
template <class T>
FASTCONV_INLINE Weights<T> weights_at(const PointwiseConv2dParams& p, int64_t channel) {
  const T* weight = static_cast<const T*>(p.weight);
  if (!weight_is_panels(p)) {
    return {weight + channel * p.weight_out_stride, p.weight_out_stride, p.weight_in_stride,
            p.out_channels - channel};
  }
  const PackedPanel panel = packed_panel_of(channel, p.out_channels);
  return {weight + packed_offset(panel, channel, 0, p.in_channels), 1, panel.columns,
          panel.first + panel.columns - channel};
}

template <class T>
FASTCONV_INLINE bool streams(const PointwiseConv2dParams& p, int64_t row) {
  constexpr uint64_t kVectorBytes = kLanes<T> * sizeof(accumulate_t<T>);
  const int64_t elements = p.batch * p.height * p.width * p.out_channels;
  return elements * int64_t(sizeof(T)) >= kStreamedBytes && row % kLanes<T> == 0 &&
         reinterpret_cast<uintptr_t>(p.output) % kVectorBytes == 0;
}

// output = act(z + residual) with rows `row` elements apart; z may be the output itself.
template <class T, class Act>
FASTCONV_INLINE void finish(const accumulate_t<T>* z, int64_t z_row, int64_t rows, int64_t columns,
                            const T* residual, T* output, int64_t row) {
  constexpr int L = kLanes<T>;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; j += L) {
      const int64_t lanes = min_of<int64_t>(L, columns - j);
      auto v = load_partial(z + i * z_row + j, lanes);
      if (residual != nullptr) v = v + load_partial(residual + i * row + j, lanes);
      store_partial(output + i * row + j, Act::forward(v), lanes);
    }
  }
}

// The panel into the output at offset, rows `row` elements apart; through scratch where it must be
// narrowed.
template <class T>
FASTCONV_INLINE void run_panel(const PointwiseConv2dParams& p, GemmTile<accumulate_t<T>>& t,
                               int64_t offset, int64_t row, accumulate_t<T>* scratch) {
  using S = accumulate_t<T>;
  constexpr S kInfinity = __builtin_inf();
  const T* residual = p.residual ? static_cast<const T*>(p.residual) + offset : nullptr;
  T* output = static_cast<T*>(p.output) + offset;
  const Activation act = p.activation;
  t.low = -kInfinity, t.high = kInfinity;
  if constexpr (!kWidens<T>) {
    const bool clamps = act != Activation::kSiLU && act != Activation::kHardswish;
    if (clamps && act != Activation::kNone) t.low = 0;
    if (act == Activation::kReLU6) t.high = 6;
    t.c = output, t.c_row = row;
    t.residual = residual, t.residual_row = row;
    t.streams = clamps && streams<T>(p, row);
    gemm_tile(t);
    if (clamps) return;
    return dispatch_activation(act, [&](auto op) {
      finish<T, decltype(op)>(output, row, t.rows, t.columns, nullptr, output, row);
    });
  }
  GemmTile<S> part = t;
  part.c = scratch, part.c_row = kMostColumns<S>;
  for (int64_t first = 0; first < t.rows; first += kScratchRows) {
    part.rows = min_of(kScratchRows, t.rows - first);
    part.a = t.a + first * t.a_row;
    if (t.bias != nullptr && t.bias_is_per_row) part.bias = t.bias + first;
    gemm_tile(part);
    const T* added = residual ? residual + first * row : nullptr;
    dispatch_activation(act, [&](auto op) {
      finish<T, decltype(op)>(scratch, part.c_row, part.rows, part.columns, added,
                              output + first * row, row);
    });
  }
}

// Few pixels by weights in (out, in) order: every output is a dot product of two rows as they lie.
// A unit is kDotOutputs output channels.
constexpr int64_t kDotOutputs = 8;
void pointwise_dots(const PointwiseConv2dParams&, int64_t begin, int64_t end);

}  // namespace fastconv::FASTCONV_ISA
