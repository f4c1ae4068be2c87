// Projections to few channels by pairs of hidden channels.
#include "inverted_residual_pairs.h"

#include <utility>

#include "simd/lane_pairs.h"
#include "simd/register_tiles.h"

namespace fastconv::FASTCONV_ISA {
namespace {

constexpr int64_t kPairColumns = 24;

#if defined(__AVX512F__)

using V = vec_t<float>;
constexpr int L = kLanes<float>, kHalf = L / 2;

// Rows of a tile of NV vectors: accumulators, weights and a broadcast fill the registers.
template <int NV>
constexpr int kMostRows = NV < 3 ? 14 : 8;

// `count` tiles of MR rows from row `first` on.
template <int MR, int NV>
void tiles(const GemmTile<float>& t, int64_t first, int64_t count) {
  const int64_t a_row = t.a_row;
  const V low = V::set1(t.low), high = V::set1(t.high);
  const float* top = t.a + first * a_row;
  float* c = t.c + first * t.c_row;
  const float* residual = t.residual ? t.residual + first * t.residual_row : nullptr;
  alignas(64) float start[NV * L] = {};
  for (int i = 0; t.bias != nullptr && i < NV * kHalf; ++i) start[2 * i] = t.bias[i];
  for (; count > 0; --count) {
    V acc[MR][NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      const V even = load(start + j * L);
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) acc[i][j] = even;
    }
    RowPointers<MR, float> a(top, a_row);
    const float* b = t.b;
    for (int64_t left = t.depth; left > 0; left -= t.depth_block) {
      for (int64_t k = min_of(left, t.depth_block); k > 0; k -= 2) {
        V row[NV];
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) row[j] = load(b + j * L);
        b += NV * L;
#pragma GCC unroll 16
        for (int i = 0; i < MR; ++i) {
          const V x = broadcast_pair(a[i]);
#pragma GCC unroll 4
          for (int j = 0; j < NV; ++j) accumulate(acc[i][j], x, row[j]);
        }
        a.advance(2);
      }
      a.advance(t.a_block - t.depth_block);
    }

    float* to = c;
    const float* more = residual;
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < NV; j += 2) {
        const bool whole = j + 1 < NV;
        const V &even = acc[i][j], &odd = acc[i][whole ? j + 1 : j];
        V z = even_lanes(even, odd) + odd_lanes(even, odd);
        if (more != nullptr) z = z + load_partial(more + j * kHalf, whole ? L : kHalf);
        z = min(high, max(low, z));
        if (!whole) {
          store_partial(to + j * kHalf, z, kHalf);
        } else {
          t.streams ? stream(to + j * kHalf, z) : store(to + j * kHalf, z);
        }
      }
      to += t.c_row;
      forget_origin(to);
      if (more != nullptr) more += t.residual_row;
    }
    top += MR * a_row, c += MR * t.c_row;
    if (residual != nullptr) residual += MR * t.residual_row;
  }
}

template <int NV, int... i>
void choose_rows(const GemmTile<float>& t, std::integer_sequence<int, i...>) {
  using Function = void (*)(const GemmTile<float>&, int64_t, int64_t);
  static constexpr Function kInstances[] = {tiles<i + 1, NV>...};
  even_tiles(t.rows, kMostRows<NV>, [&](int64_t rows, int64_t first, int64_t count) {
    kInstances[rows - 1](t, first, count);
  });
}

template <int NV>
void choose(const GemmTile<float>& t) {
  choose_rows<NV>(t, std::make_integer_sequence<int, kMostRows<NV>>{});
}

#endif

}  // namespace

void pack_pairs(const InvertedResidualParams& p, float* pairs) {
  for (int64_t first = 0; first < p.out_channels; first += kPairColumns) {
    const int64_t columns = min_of(kPairColumns, p.out_channels - first);
    for (int64_t i = 0; i < p.hidden; ++i) {
      const float* from = p.project_weight + i * p.project_row + first;
      float* to = pairs + first * p.hidden + i / 2 * 2 * columns + i % 2;
      for (int64_t c = 0; c < columns; ++c) to[2 * c] = from[c];
    }
  }
}

void pairs_tile([[maybe_unused]] const GemmTile<float>& t) {
#if defined(__AVX512F__)
  for (int64_t first = 0; first < t.columns; first += kPairColumns) {
    GemmTile<float> part = t;
    part.b += first * t.depth, part.c += first;
    part.columns = min_of(kPairColumns, t.columns - first);
    if (t.bias != nullptr) part.bias += first;
    if (t.residual != nullptr) part.residual += first;
    if (part.columns == 24) choose<3>(part);
    if (part.columns == 16) choose<2>(part);
    if (part.columns == 8) choose<1>(part);
  }
#endif
}

}  // namespace fastconv::FASTCONV_ISA
