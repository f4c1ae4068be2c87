// The rows of the input that a group of outputs reads, copied to scratch with their padding, so
// that no register tile meets a border.
#pragma once

#include "../dense_conv2d.h"
#include "gemm.h"
#include "stage.h"

namespace fastconv::FASTCONV_ISA {

// Of the input in a thread's L2 cache, beside weights and sums. ResNet-50's 3x3 layers, GFLOP/s of
// 384, 512, 768, 1024 KiB: batch 1: 333 326 336 327, 16: 336 341 353 345 (the kernel alone, two
// threads of an Intel Xeon with AMX; oneDNN in its own order of weights: 325 and 329).
constexpr int64_t kStagedBytes = 768 << 10;

// How the outputs are cut into groups, whose inputs are staged together, and how these lie. By
// taps, the image is staged once for each column of the window: only the pixels that it reads, so
// that those of all output rows lie evenly, and rows apart by a stride lie together.
template <class S>
struct Grid {
  bool by_taps;
  int64_t pixel, row;     // staged elements of a pixel and of a row
  int64_t band, bands;    // output rows of a group, and groups of an image that is cut
  int64_t images, parts;  // images of a group at most, and such groups, each of bands
  int64_t groups;
  int64_t rows, phase_rows;  // staged rows of a band, and of those a stride apart
  int64_t image;             // staged elements of an image in a group
  int64_t panels;

  explicit Grid(const DenseConv2dParams& p) {
    by_taps = dense_goes_by_taps(p);
    pixel = p.channels;
    if (by_taps && pixel * int64_t(sizeof(S)) % 512 == 0) pixel += kLanes<S>;
    const int64_t width = by_taps ? p.out_width : (p.out_width - 1) * p.stride_w + p.kernel_w;
    row = width * pixel;
    const int64_t fit = max_of<int64_t>(kStagedBytes / int64_t(sizeof(S)) / row, 1);
    const int64_t reach = (p.kernel_h - 1) * p.dilation_h + 1;
    band = clamped((fit - reach) / p.stride_h + 1, p.out_height);
    bands = div_up(p.out_height, band);
    band = div_up(p.out_height, bands);
    rows = (band - 1) * p.stride_h + reach;
    phase_rows = div_up(rows, p.stride_h);
    image = (by_taps ? phase_rows * p.stride_h : rows) * row;
    images = bands > 1 ? 1 : clamped(fit * row / image, p.batch);
    parts = max_of<int64_t>(div_up(p.batch, images), 1);
    images = div_up(p.batch, parts);
    groups = parts * bands;
    panels = dense_panels(p);
  }

  static int64_t clamped(int64_t wanted, int64_t most) {
    return max_of<int64_t>(min_of(wanted, most), 1);
  }
};

template <class S>
struct Span {
  const S* first;
  int64_t count;
};

// What a group reads of the input, where that needs no widening.
template <class T>
FASTCONV_INLINE Span<accumulate_t<T>> input_of(const DenseConv2dParams& p,
                                               const Grid<accumulate_t<T>>& grid, int64_t group) {
  if constexpr (kWidens<T>) {
    return {nullptr, 0};
  } else {
    const Range images = part_of(p.batch, grid.parts, group / grid.bands);
    const int64_t row = p.width * p.channels;
    const int64_t top =
        part_of(p.out_height, grid.bands, group % grid.bands).first * p.stride_h - p.pad_top;
    const int64_t first = min_of(max_of<int64_t>(top, 0), p.height);
    const int64_t rows =
        grid.bands > 1 ? min_of(grid.rows, p.height - first) : images.count * p.height;
    return {static_cast<const T*>(p.input) + (images.first * p.height + first) * row, rows * row};
  }
}

template <class S>
FASTCONV_INLINE void zero(S* to, int64_t elements) {
  for (int64_t i = 0; i < elements; ++i) to[i] = 0;
}

// `count` pixels of a row of the image from `first` on, each `step` from the one before; zeros for
// those outside of it.
template <class T>
static void stage_pixels(const DenseConv2dParams& p, const T* from, int64_t first, int64_t step,
                         int64_t count, int64_t pixel, accumulate_t<T>* to) {
  for (int64_t i = 0; i < count;) {
    const int64_t x = first + i * step;
    if (x < 0 || x >= p.width) {
      zero(to + i++ * pixel, pixel);
      continue;
    }
    // Pixels that lie together here and there are copied at once.
    const bool together = step == 1 && pixel == p.channels;
    const int64_t run = together ? min_of(count - i, p.width - x) : 1;
    stage_row(from + x * p.channels, to + i * pixel, run * p.channels);
    i += run;
  }
}

// What rows [first, first + count) of an image's output read, by taps in column w of the window.
template <class T>
static void stage_image(const DenseConv2dParams& p, const Grid<accumulate_t<T>>& grid, int64_t n,
                        int64_t first, int64_t count, int64_t w, accumulate_t<T>* to) {
  const int64_t top = first * p.stride_h - p.pad_top;
  const int64_t rows = (count - 1) * p.stride_h + (p.kernel_h - 1) * p.dilation_h + 1;
  const T* image = static_cast<const T*>(p.input) + n * p.height * p.width * p.channels;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t h = top + i;
    const int64_t place = grid.by_taps ? i % p.stride_h * grid.phase_rows + i / p.stride_h : i;
    accumulate_t<T>* const row = to + place * grid.row;
    if (h < 0 || h >= p.height) {
      zero(row, grid.row);
      continue;
    }
    const int64_t left = w * p.dilation_w - p.pad_left;
    stage_pixels(p, image + h * p.width * p.channels, left, grid.by_taps ? p.stride_w : 1,
                 grid.row / grid.pixel, grid.pixel, row);
  }
}

}  // namespace fastconv::FASTCONV_ISA
