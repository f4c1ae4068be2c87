// The gradients of weight and bias: a matrix product over all pixels, cut into blocks that stay in
// the caches, and blocks into splits that several threads may take. Each split sums its blocks in
// their order, reduce adds the splits in theirs: no thread count changes a bit.
#include <cstring>

#include "../pointwise_conv2d.h"
#include "gemm.h"
#include "pointwise_conv2d_backward.h"
#include "registry.h"
#include "stage.h"

namespace fastconv::FASTCONV_ISA {
namespace {

using Params = PointwiseConv2dWeightGradientParams;

constexpr int64_t kUnitsWanted = 16;

// How the pixels are cut. contiguous tensors hold images apart, channels_last ones do not.
struct Blocks {
  int64_t images, pixels;  // pixels an image; one image of all where images do not matter
  int64_t an_image, splits;
};

template <class S>
FASTCONV_INLINE Blocks blocks_of(const Params& p) {
  const int64_t plane = p.height * p.width;
  const bool nhwc = p.layout == Layout::kNHWC;
  const int64_t images = nhwc ? 1 : p.batch, pixels = nhwc ? p.batch * plane : plane;
  const int64_t an_image = div_up(pixels, kBlockPixels);
  const int64_t wanted = div_up(kUnitsWanted, panel_count<S>(p.in_channels));
  return {images, pixels, an_image, min_of(images * an_image, wanted)};
}

// x[k][j]: channel j of the panel at pixel k of the block, as rows of kTileColumns.
template <class T>
void gather_input(const Params& p, int64_t image, Range pixels, Range panel, accumulate_t<T>* to) {
  using S = accumulate_t<T>;
  const T* input = static_cast<const T*>(p.input);
  const bool nhwc = p.layout == Layout::kNHWC;
  const int64_t in_plane = p.in_height * p.in_width, plane = p.height * p.width;
  if (!is_subsampled(p)) {
    const T* from = nhwc ? input + pixels.first * p.in_channels + panel.first
                         : input + (image * p.in_channels + panel.first) * in_plane + pixels.first;
    return stage(from, nhwc ? p.in_channels : 1, nhwc ? 1 : in_plane, to, kTileColumns<S>,
                 pixels.count, panel.count);
  }
  for (int64_t k = 0; k < pixels.count; ++k) {
    const int64_t pixel = pixels.first + k, n = nhwc ? pixel / plane : image;
    const int64_t h = pixel % plane / p.width, w = pixel % p.width;
    const int64_t position = h * p.stride_h * p.in_width + w * p.stride_w;
    const T* from = nhwc ? input + (n * in_plane + position) * p.in_channels + panel.first
                         : input + (n * p.in_channels + panel.first) * in_plane + position;
    stage(from, 0, nhwc ? 1 : in_plane, to + k * kTileColumns<S>, 0, 1, panel.count);
  }
}

// The sums of grad_output over the block, added to `sums` or put there first.
template <class T>
void sum_block(const Params& p, int64_t image, Range pixels, bool first, accumulate_t<T>* sums) {
  using V = vec_t<T>;
  constexpr int64_t L = kLanes<T>;
  const T* grad = static_cast<const T*>(p.grad_output);
  if (p.layout == Layout::kNHWC) {
    for (int64_t c = 0; c < p.out_channels; c += L) {
      const int64_t lanes = min_of(L, p.out_channels - c);
      const T* from = grad + pixels.first * p.out_channels + c;
      V sum = V::set1(0);
      for (int64_t k = 0; k < pixels.count; ++k) {
        sum = sum + load_partial(from + k * p.out_channels, lanes);
      }
      store_partial(sums + c, first ? sum : sum + load_partial(sums + c, lanes), lanes);
    }
    return;
  }
  const int64_t plane = p.height * p.width;
  for (int64_t c = 0; c < p.out_channels; ++c) {
    const T* from = grad + (image * p.out_channels + c) * plane + pixels.first;
    V sum = V::set1(0);
    for (int64_t k = 0; k < pixels.count; k += L) {
      sum = sum + load_partial(from + k, min_of(L, pixels.count - k));
    }
    sums[c] = first ? reduce_add(sum) : sums[c] + reduce_add(sum);
  }
}

// One panel of input channels against all output channels, over one block of pixels.
template <class T>
void multiply_block(const Params& p, int64_t image, Range pixels, Range panel, bool first,
                    accumulate_t<T>* product, accumulate_t<T>* scratch) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (p.layout == Layout::kNHWC) return multiply_pairs(p, pixels, panel, first, product, scratch);
  }
  using S = accumulate_t<T>;
  constexpr S kInfinity = __builtin_inf();
  const T* grad = static_cast<const T*>(p.grad_output);
  const bool nhwc = p.layout == Layout::kNHWC;
  const int64_t plane = p.height * p.width;
  GemmTile<S> t{};
  t.depth = pixels.count, t.columns = panel.count;
  t.low = -kInfinity, t.high = kInfinity;
  if (kWidens<T> || !nhwc || is_subsampled(p)) {
    gather_input<T>(p, image, pixels, panel, scratch);
    t.b = scratch, t.b_row = kTileColumns<S>;
  } else {
    t.b = static_cast<const S*>(p.input) + pixels.first * p.in_channels + panel.first;
    t.b_row = p.in_channels;
  }
  S* widened = scratch + kBlockPixels * kTileColumns<S>;
  const int64_t tiles = kWidens<T> ? row_tile_count(p.out_channels) : 1;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const Range rows = part_of(p.out_channels, tiles, tile);
    const T* a = nhwc ? grad + pixels.first * p.out_channels + rows.first
                      : grad + (image * p.out_channels + rows.first) * plane + pixels.first;
    t.rows = rows.count;
    if constexpr (!kWidens<T>) {
      t.a = a, t.a_row = nhwc ? 1 : plane, t.a_depth = nhwc ? p.out_channels : 1;
    } else if (nhwc) {
      stage(a, p.out_channels, 1, widened, kTileRows, pixels.count, rows.count);
      t.a = widened, t.a_row = 1, t.a_depth = kTileRows;
    } else {
      stage(a, plane, 1, widened, kBlockPixels, rows.count, pixels.count);
      t.a = widened, t.a_row = kBlockPixels, t.a_depth = 1;
    }
    t.c = product + rows.first * p.in_channels + panel.first, t.c_row = p.in_channels;
    t.residual = first ? nullptr : t.c, t.residual_row = t.c_row;
    gemm_tile(t);
  }
}

template <class T>
void run_as(const Params& p, accumulate_t<T>* partials, accumulate_t<T>* scratch, int64_t begin,
            int64_t end) {
  using S = accumulate_t<T>;
  const Blocks blocks = blocks_of<S>(p);
  const int64_t panels = panel_count<S>(p.in_channels);
  const int64_t product = p.out_channels * p.in_channels;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t split = unit / panels;
    const Range panel = panel_at<S>(unit % panels, p.in_channels);
    const Range range = part_of(blocks.images * blocks.an_image, blocks.splits, split);
    for (int64_t block = range.first; block < range.first + range.count; ++block) {
      const int64_t image = block / blocks.an_image;
      const Range pixels = part_of(blocks.pixels, blocks.an_image, block % blocks.an_image);
      const bool first = block == range.first && !p.adds;
      if (p.grad_weight != nullptr) {
        multiply_block<T>(p, image, pixels, panel, first, partials + split * product, scratch);
      }
      if (p.grad_bias != nullptr && panel.first == 0) {
        S* sums = partials + blocks.splits * product + split * p.out_channels;
        sum_block<T>(p, image, pixels, first, sums);
      }
    }
  }
}

// to[i * stride] = sum over splits of partials[split * size + first + i], i < count.
template <class T>
void add_splits(const accumulate_t<T>* partials, int64_t splits, int64_t size, Range range, T* to,
                int64_t stride) {
  using S = accumulate_t<T>;
  constexpr int64_t L = kLanes<T>;
  for (int64_t i = 0; i < range.count; i += L) {
    const int64_t lanes = min_of(L, range.count - i);
    const S* from = partials + range.first + i;
    auto sum = load_partial(from, lanes);
    for (int64_t split = 1; split < splits; ++split) {
      sum = sum + load_partial(from + split * size, lanes);
    }
    if (stride == 1) {
      store_partial(to + i, sum, lanes);
    } else {
      S values[L];
      store(values, sum);
      for (int64_t j = 0; j < lanes; ++j) narrow(values[j], to + (i + j) * stride);
    }
  }
}

// One unit is one output channel.
template <class T>
void reduce_as(const Params& p, const accumulate_t<T>* partials, int64_t begin, int64_t end) {
  const int64_t splits = p.splits > 0 ? p.splits : blocks_of<accumulate_t<T>>(p).splits;
  const int64_t in = p.in_channels, product = p.out_channels * in;
  for (int64_t c = begin; p.grad_weight != nullptr && c < end; ++c) {
    T* to = static_cast<T*>(p.grad_weight) + c * p.weight_out_stride;
    add_splits<T>(partials, splits, product, {c * in, in}, to, p.weight_in_stride);
  }
  if (p.grad_bias != nullptr) {
    T* to = static_cast<T*>(p.grad_bias) + begin;
    const Range range{begin, end - begin};
    add_splits<T>(partials + splits * product, splits, p.out_channels, range, to, 1);
  }
}

template <class T>
PointwiseConv2dWeightGradientPlan plan_as(const Params& p) {
  using S = accumulate_t<T>;
  const Blocks blocks = blocks_of<S>(p);
  PointwiseConv2dWeightGradientPlan plan{};
  plan.units = blocks.splits * panel_count<S>(p.in_channels);
  plan.scratch_bytes = kBlockPixels * (kTileColumns<S> + kTileRows) * sizeof(S);
  plan.reduce_units = p.out_channels;
  plan.partials_bytes = blocks.splits * p.out_channels * (p.in_channels + 1) * sizeof(S);
  return plan;
}

// Unit (n, h) is a row of pixels, for contiguous tensors in every channel.
template <class T>
void spread_as(const PointwiseConv2dSpreadParams& p, int64_t begin, int64_t end) {
  const bool nhwc = p.layout == Layout::kNHWC;
  const int64_t planes = nhwc ? 1 : p.in_channels, run = nhwc ? p.in_channels : 1;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / p.in_height, h = unit % p.in_height;
    for (int64_t c = 0; c < planes; ++c) {
      const int64_t plane = n * planes + c;
      T* row = static_cast<T*>(p.grad_input) + (plane * p.in_height + h) * p.in_width * run;
      std::memset(static_cast<void*>(row), 0, p.in_width * run * sizeof(T));
      if (h % p.stride_h != 0) continue;
      const T* from =
          static_cast<const T*>(p.compact) + (plane * p.height + h / p.stride_h) * p.width * run;
      for (int64_t w = 0; w < p.width; ++w) {
        std::memcpy(row + w * p.stride_w * run, from + w * run, run * sizeof(T));
      }
    }
  }
}

PointwiseConv2dWeightGradientPlan plan(const Params& p) {
  PointwiseConv2dWeightGradientPlan result{};
  dispatch_dtype(p.dtype, [&](auto element) { result = plan_as<decltype(element)>(p); });
  return result;
}

void run(const Params& p, void* partials, void* scratch, int64_t begin, int64_t end) {
  dispatch_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    using S = accumulate_t<T>;
    run_as<T>(p, static_cast<S*>(partials), static_cast<S*>(scratch), begin, end);
  });
}

void reduce(const Params& p, const void* partials, int64_t begin, int64_t end) {
  dispatch_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    reduce_as<T>(p, static_cast<const accumulate_t<T>*>(partials), begin, end);
  });
}

void spread(const PointwiseConv2dSpreadParams& p, int64_t begin, int64_t end) {
  dispatch_dtype(p.dtype, [&](auto element) { spread_as<decltype(element)>(p, begin, end); });
}

}  // namespace

const PointwiseConv2dBackwardKernels pointwise_conv2d_backward_kernels = {plan, run, reduce,
                                                                          spread};

}  // namespace fastconv::FASTCONV_ISA
