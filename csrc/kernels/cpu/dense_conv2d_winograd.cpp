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
  int64_t out_row, out_plane;   // products: (36, tiles of a group, output channels of a block)

  explicit Grid(const DenseConv2dParams& p) {
    rows = div_up<int64_t>(p.out_height, kTile), columns = div_up<int64_t>(p.out_width, kTile);
    tiles = p.batch * rows * columns;
    panels = dense_panels(p);
    block = min_of<int64_t>(panels, kBlockPanels);
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
  return result;
}

void prepare(const DenseConv2dParams&, void*, int64_t, int64_t) {}

// All products of a group with some panels of weights.
void multiply(const DenseConv2dParams& p, const Grid& grid, Range panels, int64_t tiles,
              const float* inputs, float* products) {
  const int64_t panel = p.channels * p.panel;
  constexpr float kInfinity = __builtin_inff();
  for (int64_t f = 0; f < kProducts; ++f) {
    const float* b = static_cast<const float*>(p.weight) + (f * grid.panels + panels.first) * panel;
    for (int64_t i = 0; i < panels.count; ++i, b += panel) {
      for (int64_t part = 0; part < panel_count<float>(p.panel); ++part) {
        const Range columns = panel_at<float>(part, p.panel);
        GemmTile<float> t{};
        t.a = inputs + f * grid.in_plane, t.a_row = grid.in_row, t.a_depth = 1;
        t.b = b + columns.first, t.b_row = p.panel;
        t.c = products + f * grid.out_plane + i * p.panel + columns.first, t.c_row = grid.out_row;
        t.rows = tiles, t.columns = columns.count, t.depth = p.channels;
        t.low = -kInfinity, t.high = kInfinity;
        // The first part of a panel fetches the next panel.
        const int64_t on = i + 1 < panels.count ? 1 : grid.panels - panels.count + 1;
        if (part == 0 && (on == 1 || f + 1 < kProducts)) {
          t.next_b = b + on * panel, t.next_end = t.next_b + panel;
        }
        gemm_tile(t);
      }
    }
  }
}

void run(const DenseConv2dParams& p, const void*, void* scratch, int64_t begin, int64_t end) {
  const Grid grid(p);
  float* inputs = static_cast<float*>(scratch);
  float* products = inputs + kProducts * grid.in_plane;
  float* zeros = products + kProducts * grid.out_plane;
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
      multiply(p, grid, now, tiles.count, inputs, products);
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
