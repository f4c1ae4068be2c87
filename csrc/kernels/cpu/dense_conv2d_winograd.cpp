// Dense 3x3 convolution of stride 1 by Winograd's products (Lavin and Gray 2015, arXiv 1509.09308):
// 36 of them for 4x4 outputs and a pair of channels, where the sums of the definition take 144.
#include "../dense_conv2d.h"
#include "gemm.h"
#include "registry.h"
#include "simd/vectors.h"
#include "winograd_transforms.h"

namespace fastconv::FASTCONV_ISA {
namespace {

using V = vec_t<float>;
constexpr int64_t L = kLanes<float>;
constexpr int kEdge = kWinogradEdge, kTile = kWinogradTile, kProducts = kWinogradProducts;

// Tiles of a group: their inputs and products stay in a thread's L2 cache, unless the weights are
// larger than that anyway and are better read seldom. The kernel alone, ms of 28, 32 and 64 tiles:
// 512 channels, 7x7, batch 16: 23.4 15.8 13.9; 128, 28x28, batch 1: 0.50 0.53 0.61. Of 56, 64 and
// 128: 64, 56x56, batch 16: 9.5 9.8 10.6 (one core of an Intel Xeon with AMX).
constexpr int64_t kGroupBytes = 1 << 20, kManyWeights = 4 << 20, kFewTiles = 32, kMostTiles = 64;
// Panels of weights whose products wait for their transform: 4, 8 and all within 4 %.
constexpr int64_t kBlockPanels = 4;

// A group is some tiles, of one image or several, whose inputs are transformed together.
struct Grid {
  int64_t rows, columns;        // tiles of an image
  int64_t tiles, groups, most;  // tiles of all images, groups of them, tiles of a group at most
  int64_t panels, block;        // of weights, and of those multiplied before their products leave
  int64_t in_row, in_plane;     // transformed inputs: (36, tiles of a group, channels), with gaps
  int64_t weight_plane;         // weights at a point: of all panels, or of one, with a gap
  int64_t out_row, out_plane;   // products: (36, tiles of a group, output channels of a block)

  explicit Grid(const DenseConv2dParams& p) {
    rows = div_up<int64_t>(p.out_height, kTile), columns = div_up<int64_t>(p.out_width, kTile);
    tiles = p.batch * rows * columns;
    panels = dense_panels(p);
    block = p.weight_is_at_points ? min_of(panels, kBlockPanels) : 1;
    weight_plane =
        p.weight_is_at_points ? panels * p.channels * p.panel : plane_of(p.channels * p.panel);
    in_row = row_of(p.channels), out_row = row_of(block * p.panel);
    const int64_t tile_bytes = kProducts * (in_row + out_row) * int64_t(sizeof(float));
    const int64_t weight_bytes = kProducts * p.channels * p.out_channels * int64_t(sizeof(float));
    most = min_of(max_of(kGroupBytes / tile_bytes, kFewTiles), kMostTiles);
    if (weight_bytes > kManyWeights) most = kMostTiles;
    most = min_of(most, tiles);
    groups = div_up(tiles, most);
    most = div_up(tiles, groups);
    in_plane = plane_of(most * in_row), out_plane = plane_of(most * out_row);
  }

  // Rows a page's part apart, and planes pages apart, would share cache sets.
  static int64_t row_of(int64_t elements) {
    const int64_t row = div_up(elements, L) * L;
    return row * int64_t(sizeof(float)) % 512 == 0 ? row + 16 : row;
  }
  static int64_t plane_of(int64_t elements) {
    constexpr int64_t kPage = 4096 / sizeof(float);
    return div_up(elements, kPage) * kPage + 16;
  }
};

struct Tile {
  int64_t image, top, left;  // of its outputs
  int64_t row_count, column_count;
};

FASTCONV_INLINE Tile tile_at(const DenseConv2dParams& p, const Grid& grid, int64_t index) {
  const int64_t image = index / (grid.rows * grid.columns);
  const int64_t place = index % (grid.rows * grid.columns);
  const int64_t top = place / grid.columns * kTile, left = place % grid.columns * kTile;
  return {image, top, left, min_of<int64_t>(kTile, p.out_height - top),
          min_of<int64_t>(kTile, p.out_width - left)};
}

// The inputs of a tile, zeros those outside of the image, into row `to` of the 36 planes.
void transform_in(const DenseConv2dParams& p, const Grid& grid, const Tile& tile,
                  const float* zeros, float* to) {
  const float* pixels[kEdge][kEdge];
  const float* image =
      static_cast<const float*>(p.input) + tile.image * p.height * p.width * p.channels;
  for (int64_t i = 0; i < kEdge; ++i) {
    const int64_t h = tile.top - p.pad_top + i;
    for (int64_t j = 0; j < kEdge; ++j) {
      const int64_t w = tile.left - p.pad_left + j;
      const bool is_inside = h >= 0 && h < p.height && w >= 0 && w < p.width;
      pixels[i][j] = is_inside ? image + (h * p.width + w) * p.channels : zeros;
    }
  }
  for_each_vector<float>(p.channels, [&](int64_t c, auto lanes) {
    V turned[kEdge][kEdge];
#pragma GCC unroll 6
    for (int j = 0; j < kEdge; ++j) {
      V d[kEdge], t[kEdge];
#pragma GCC unroll 6
      for (int i = 0; i < kEdge; ++i) d[i] = load(pixels[i][j] + c, lanes);
      transform_input(d, t);
#pragma GCC unroll 6
      for (int i = 0; i < kEdge; ++i) turned[i][j] = t[i];
    }
    float* at = to + c;
#pragma GCC unroll 6
    for (int i = 0; i < kEdge; ++i) {
      V t[kEdge];
      transform_input(turned[i], t);
#pragma GCC unroll 6
      for (int j = 0; j < kEdge; ++j, at += grid.in_plane) store(at, t[j], lanes);
    }
  });
}

// Row `from` of the 36 planes of products into the outputs [first, first + count) of a tile.
template <class Op>
void transform_out(const DenseConv2dParams& p, const Grid& grid, const Tile& tile,
                   const float* from, int64_t first, int64_t count) {
  const int64_t at =
      ((tile.image * p.out_height + tile.top) * p.out_width + tile.left) * p.out_channels + first;
  const float* bias = p.bias == nullptr ? nullptr : static_cast<const float*>(p.bias) + first;
  const float* residual =
      p.residual == nullptr ? nullptr : static_cast<const float*>(p.residual) + at;
  float* output = static_cast<float*>(p.output) + at;
  for_each_vector<float>(count, [&](int64_t n, auto lanes) {
    V turned[kTile][kEdge];
#pragma GCC unroll 6
    for (int j = 0; j < kEdge; ++j) {
      V m[kEdge], y[kTile];
#pragma GCC unroll 6
      for (int i = 0; i < kEdge; ++i) m[i] = load(from + (i * kEdge + j) * grid.out_plane + n);
      transform_output(m, y);
#pragma GCC unroll 4
      for (int i = 0; i < kTile; ++i) turned[i][j] = y[i];
    }
    const V start = bias == nullptr ? V::set1(0) : load(bias + n, lanes);
#pragma GCC unroll 4
    for (int i = 0; i < kTile; ++i) {
      if (i >= tile.row_count) break;
      V y[kTile];
      transform_output(turned[i], y);
#pragma GCC unroll 4
      for (int j = 0; j < kTile; ++j) {
        if (j >= tile.column_count) break;
        const int64_t place = (i * p.out_width + j) * p.out_channels + n;
        V z = y[j] + start;
        if (residual != nullptr) z = z + load(residual + place, lanes);
        store(output + place, Op::forward(z), lanes);
      }
    }
  });
}

DenseConv2dPlan plan(const DenseConv2dParams& p) {
  const Grid grid(p);
  DenseConv2dPlan result{};
  result.units = grid.groups * grid.panels;
  result.scratch_bytes =
      (kProducts * (grid.in_plane + grid.out_plane) + p.channels) * sizeof(float);
  if (!p.weight_is_at_points) result.scratch_bytes += kProducts * grid.weight_plane * sizeof(float);
  return result;
}

void prepare(const DenseConv2dParams&, void*, int64_t, int64_t) {}

// A panel of weights at the points.
void transform_weights(const DenseConv2dParams& p, const Grid& grid, int64_t panel, float* to) {
  const int64_t tap = p.channels * p.panel;
  const float* from = static_cast<const float*>(p.weight) + panel * 9 * tap;
  for_each_vector<float>(tap, [&](int64_t n, auto lanes) {
    V turned[3][kEdge];
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i) {
      V g[3];
#pragma GCC unroll 3
      for (int j = 0; j < 3; ++j) g[j] = load(from + (i * 3 + j) * tap + n, lanes);
      transform_weight(g, turned[i]);
    }
#pragma GCC unroll 6
    for (int j = 0; j < kEdge; ++j) {
      const V g[3] = {turned[0][j], turned[1][j], turned[2][j]};
      V t[kEdge];
      transform_weight(g, t);
#pragma GCC unroll 6
      for (int i = 0; i < kEdge; ++i) {
        store(to + (i * kEdge + j) * grid.weight_plane + n, t[i], lanes);
      }
    }
  });
}

struct Span {
  const float* first;
  int64_t count;
};

// The products of a group at point f with some panels of weights, which lie one after the other;
// each fetches the one behind it, the last one `next`.
void multiply(const DenseConv2dParams& p, const Grid& grid, int64_t f, const float* weights,
              int64_t panels, int64_t tiles, const float* inputs, float* products, Span next) {
  constexpr float kInfinity = __builtin_inff();
  const int64_t panel = p.channels * p.panel;
  for (int64_t i = 0; i < panels; ++i, weights += panel) {
    for (int64_t part = 0; part < panel_count<float>(p.panel); ++part) {
      const Range columns = panel_at<float>(part, p.panel);
      GemmTile<float> t{};
      t.a = inputs + f * grid.in_plane, t.a_row = grid.in_row, t.a_depth = 1;
      t.b = weights + columns.first, t.b_row = p.panel;
      t.c = products + f * grid.out_plane + i * p.panel + columns.first, t.c_row = grid.out_row;
      t.rows = tiles, t.columns = columns.count, t.depth = p.channels;
      t.low = -kInfinity, t.high = kInfinity;
      if (part == 0 && i + 1 < panels) {
        t.next_b = weights + panel, t.next_end = t.next_b + panel;
      } else if (part == 0 && next.first != nullptr) {
        t.next_b = next.first, t.next_end = next.first + next.count;
      }
      gemm_tile(t);
    }
  }
}

// Those at all points with [panels.first, ...), whose weights are at the points.
void multiply_at_points(const DenseConv2dParams& p, const Grid& grid, Range panels, int64_t tiles,
                        const float* inputs, float* products) {
  const int64_t panel = p.channels * p.panel;
  const float* weights = static_cast<const float*>(p.weight) + panels.first * panel;
  for (int64_t f = 0; f < kProducts; ++f, weights += grid.weight_plane) {
    const Span next{f + 1 < kProducts ? weights + grid.weight_plane : nullptr, panel};
    multiply(p, grid, f, weights, panels.count, tiles, inputs, products, next);
  }
}

// Those with a panel that has yet to be brought there; meanwhile the next one is fetched.
void multiply_transforming(const DenseConv2dParams& p, const Grid& grid, int64_t panel,
                           bool is_last, int64_t tiles, const float* inputs, float* products,
                           float* weights) {
  transform_weights(p, grid, panel, weights);
  const int64_t whole = 9 * p.channels * p.panel, share = whole / kProducts;
  const float* next = static_cast<const float*>(p.weight) + (panel + 1) * whole;
  for (int64_t f = 0; f < kProducts; ++f) {
    multiply(p, grid, f, weights + f * grid.weight_plane, 1, tiles, inputs, products,
             {is_last ? nullptr : next + f * share, share});
  }
}

void run(const DenseConv2dParams& p, const void*, void* scratch, int64_t begin, int64_t end) {
  const Grid grid(p);
  float* inputs = static_cast<float*>(scratch);
  float* products = inputs + kProducts * grid.in_plane;
  float* weights = products + kProducts * grid.out_plane;  // where they are yet to be transformed
  float* zeros = weights + (p.weight_is_at_points ? 0 : kProducts * grid.weight_plane);
  for (int64_t c = 0; c < p.channels; ++c) zeros[c] = 0;
  while (begin < end) {
    const int64_t index = begin / grid.panels, first = begin % grid.panels;
    Range panels{first, min_of(grid.panels - first, end - begin)};
    begin += panels.count;
    const Range tiles = part_of(grid.tiles, grid.groups, index);
    for (int64_t i = 0; i < tiles.count; ++i) {
      transform_in(p, grid, tile_at(p, grid, tiles.first + i), zeros, inputs + i * grid.in_row);
    }
    for (; panels.count > 0; panels.first += grid.block, panels.count -= grid.block) {
      const Range now{panels.first, min_of(grid.block, panels.count)};
      if (p.weight_is_at_points) {
        multiply_at_points(p, grid, now, tiles.count, inputs, products);
      } else {
        multiply_transforming(p, grid, now.first, panels.count == 1, tiles.count, inputs, products,
                              weights);
      }
      const int64_t column = now.first * p.panel;
      const int64_t count = min_of(now.count * p.panel, p.out_channels - column);
      dispatch_activation(p.activation, [&](auto op) {
        for (int64_t i = 0; i < tiles.count; ++i) {
          transform_out<decltype(op)>(p, grid, tile_at(p, grid, tiles.first + i),
                                      products + i * grid.out_row, column, count);
        }
      });
    }
  }
}

}  // namespace

const DenseConv2dKernels dense_conv2d_winograd_kernels = {plan, prepare, run};

}  // namespace fastconv::FASTCONV_ISA
