// Register tiles of the expansion of fused blocks.
#include "inverted_residual_tiles.h"

#include <utility>

#include "simd/pointers.h"

namespace fastconv::FASTCONV_ISA {
namespace {

#if defined(__AVX512F__)

using V = vec_t<float>;
constexpr int kLine = kLanes<float>;
constexpr int NV = 3, kMostRows = 8;

// `count` tiles of MR rows, one below the other.
template <int MR>
void tiles(const GemmTile<float>& t, const VectorPlaces& places, int64_t first, int64_t count) {
  constexpr int kPointers = (MR + kRowsAPointer - 1) / kRowsAPointer;
  const int64_t a_row = t.a_row, b_row = t.b_row, c_row = t.c_row;
  const int64_t second = places.at[1], third = places.at[2];
  const V low = V::set1(t.low), high = V::set1(t.high);
  const float* top = t.a + first * a_row;
  float* c = t.c + first * c_row;
  for (int64_t fetched = first / MR; count > 0; --count, ++fetched) {
    V acc[MR][NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      const V start = t.bias ? load(t.bias + j * kLine) : V::set1(0);
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) acc[i][j] = start;
    }
    const float* a[kPointers];
    a[0] = top;
    forget_origin(a[0]);
#pragma GCC unroll 8
    for (int i = 1; i < kPointers; ++i) {
      a[i] = a[i - 1] + kRowsAPointer * a_row;
      forget_origin(a[i]);
    }
    const float* b = t.b;
    const auto step = [&](int u) __attribute__((always_inline)) {
      const V row[NV] = {load(b), load(b + second), load(b + third)};
      b += b_row;
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) {
        const V x = V::set1(a[i / kRowsAPointer][(i % kRowsAPointer) * a_row + u]);
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) acc[i][j] = fma(x, row[j], acc[i][j]);
      }
    };
    const bool fetches = t.next_b != nullptr && fetched < NV;
    const float* next = fetches ? t.next_b + fetched * kLine : t.b;
    const int64_t next_row = fetches ? b_row : 0;
    int64_t k = t.depth;
    for (; k >= 2; k -= 2) {
      step(0), step(1);
#pragma GCC unroll 8
      for (int i = 0; i < kPointers; ++i) {
        a[i] += 2;
        forget_origin(a[i]);
      }
      __builtin_prefetch(next, 0, 2);
      __builtin_prefetch(next + next_row, 0, 2);
      next += 2 * next_row;
    }
    if (k > 0) step(0);

    float* row = c;
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i, row += c_row) {
      forget_origin(row);
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) store(row + j * kLine, min(high, max(low, acc[i][j])));
    }
    top += MR * a_row, c += MR * c_row;
  }
}

template <int... i>
void choose_rows(const GemmTile<float>& t, const VectorPlaces& places,
                 std::integer_sequence<int, i...>) {
  using Function = void (*)(const GemmTile<float>&, const VectorPlaces&, int64_t, int64_t);
  static constexpr Function kInstances[] = {tiles<i + 1>...};
  // Tiles that differ by one row at most, the taller ones first.
  const int64_t count = div_up<int64_t>(t.rows, kMostRows), rows = t.rows / count;
  const int64_t taller = t.rows % count;
  if (taller > 0) kInstances[rows](t, places, 0, taller);
  kInstances[rows - 1](t, places, taller * (rows + 1), count - taller);
}

#endif

}  // namespace

void expand_tile(const GemmTile<float>& t, [[maybe_unused]] const VectorPlaces& places) {
#if defined(__AVX512F__)
  if (t.columns == NV * kLine) {
    return choose_rows(t, places, std::make_integer_sequence<int, kMostRows>{});
  }
#endif
  gemm_tile(t);
}

}  // namespace fastconv::FASTCONV_ISA
