// Register tiles of the 1x1 convolutions of fused blocks.
#include "inverted_residual_tiles.h"

#include <utility>

#include "simd/register_tiles.h"

namespace fastconv::FASTCONV_ISA {
namespace {

#if defined(__AVX512F__)

using V = vec_t<float>;
constexpr int kLine = kLanes<float>;
template <int NV>
constexpr int kMostRows = NV == 3 ? 8 : 6;

// `count` tiles of MR rows, one below the other. kFetches: tile i fetches column i of next_b.
template <int NV, int MR, bool kFetches>
void tiles(const GemmTile<float>& t, const VectorPlaces& places, int64_t first, int64_t count) {
  const int64_t b_row = t.b_row, c_row = t.c_row;
  const int64_t second = places.at[1], third = places.at[2], fourth = places.at[3];
  const int64_t block = t.depth_block > 0 ? t.depth_block : t.depth;
  const V low = V::set1(t.low), high = V::set1(t.high);
  const float* top = t.a + first * t.a_row;
  float* c = t.c + first * c_row;
  const float* residual = t.residual ? t.residual + first * t.residual_row : nullptr;
  int64_t column = min_of<int64_t>(first / MR, NV - 1);
  for (; count > 0; --count) {
    V acc[MR][NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      const V start = t.bias ? load(t.bias + j * kLine) : V::set1(0);
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) acc[i][j] = start;
    }
    RowPointers<MR, float> a(top, t.a_row);
    const float* b = t.b;
    const auto step = [&](int u) __attribute__((always_inline)) {
      V row[NV] = {load(b), load(b + second), load(b + third)};
      if constexpr (NV == 4) row[3] = load(b + fourth);
      b += b_row;
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) {
        const V x = V::set1(a[i][u]);
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) accumulate(acc[i][j], x, row[j]);
      }
    };
    const float* fetched = kFetches ? t.next_b + places.at[column] : nullptr;
    for (int64_t left = t.depth; left > 0; left -= block) {
      int64_t k = min_of(left, block);
      for (; k >= 2; k -= 2) {
        step(0), step(1);
        a.advance(2);
        if constexpr (kFetches) {
          __builtin_prefetch(fetched, 0, 2);
          __builtin_prefetch(fetched + b_row, 0, 2);
          fetched += 2 * b_row;
        }
      }
      if (k > 0) {
        step(0);
        a.advance(1);
      }
      a.advance(t.a_block - block);
    }
    column = min_of<int64_t>(column + 1, NV - 1);

    float* row = c;
    if (residual == nullptr && !t.streams) {  // most tiles
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i, row += c_row) {
        forget_origin(row);
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) store(row + j * kLine, min(high, max(low, acc[i][j])));
      }
    } else {
      const float* more = residual;
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i, row += c_row) {
        forget_origin(row);
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) {
          V z = acc[i][j];
          if (more != nullptr) z = z + load(more + j * kLine);
          z = min(high, max(low, z));
          t.streams ? stream(row + j * kLine, z) : store(row + j * kLine, z);
        }
        if (more != nullptr) more += t.residual_row;
      }
      if (residual != nullptr) residual += MR * t.residual_row;
    }
    top += MR * t.a_row, c += MR * c_row;
  }
}

template <int NV, int... i>
void choose_rows(const GemmTile<float>& t, const VectorPlaces& places,
                 std::integer_sequence<int, i...>) {
  using Function = void (*)(const GemmTile<float>&, const VectorPlaces&, int64_t, int64_t);
  static constexpr Function kPlain[] = {tiles<NV, i + 1, false>...};
  static constexpr Function kFetching[] = {tiles<NV, i + 1, true>...};
  int64_t fetching = t.next_b != nullptr ? NV : 0;
  even_tiles(t.rows, kMostRows<NV>, [&](int64_t rows, int64_t first, int64_t count) {
    const int64_t fetch = min_of(fetching, count);
    if (fetch > 0) kFetching[rows - 1](t, places, first, fetch);
    if (count > fetch) kPlain[rows - 1](t, places, first + fetch * rows, count - fetch);
    fetching -= fetch;
  });
}

template <int NV>
void choose(const GemmTile<float>& t, const VectorPlaces& places) {
  choose_rows<NV>(t, places, std::make_integer_sequence<int, kMostRows<NV>>{});
}

#endif

}  // namespace

void wide_tile(const GemmTile<float>& t, [[maybe_unused]] const VectorPlaces& places) {
#if defined(__AVX512F__)
  if (t.columns == 3 * kLine) return choose<3>(t, places);
  if (t.columns == 4 * kLine) return choose<4>(t, places);
#endif
  gemm_tile(t);
}

}  // namespace fastconv::FASTCONV_ISA
