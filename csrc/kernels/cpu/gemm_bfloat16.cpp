// Register tiles down a panel, one instance for each number of rows and vectors; gemm.cpp says
// more.
#include "gemm_bfloat16.h"

#include <type_traits>
#include <utility>

#include "simd/pairs.h"
#include "simd/pointers.h"

namespace fastconv::FASTCONV_ISA {
namespace {

// Rows of b fetched ahead, where there are many: a stride apart, the processor does not follow
// them.
constexpr int64_t kPrefetchRows = 16;

#if defined(__AVX512F__)
constexpr bool kCanShare = true;
#else
constexpr bool kCanShare = false;
#endif

// Rows of a tile of NV vectors: fourteen rows of two, a call each, expanded 16 -> 96 at 112x112 at
// 346 GFLOP/s, eight in one call at 407; 24 -> 144 at 56x56: 371 and 409; 96 -> 576 at 14x14: 453
// and 503 (one core of a Zen 5).
template <int NV, bool kShared>
constexpr int kRows = [] {
  if (kLanes<float> == 1) return NV <= 2 ? 4 : 2;
#if defined(__AVX512F__)
  if (kShared) return NV == 1 ? 16 : NV == 2 ? 10 : 6;
  return NV == 1 ? 12 : NV == 2 ? kPairRows : 5;
#else
  return NV == 1 ? 8 : NV == 2 ? kPairRows : 2;
#endif
}();

// `count` tiles of MR rows, one below the other. Where kShared, the last vector of an even row
// carries the last columns of that row in its low half, those of the next row in its high half.
template <class C, int MR, int NV, bool kShared, bool kPairsTouch>
void tiles(PairTile<C> t, int64_t count) {
  constexpr int L = kLanes<float>;
  constexpr int kPointers = (MR + kRowsAPointer - 1) / kRowsAPointer;
  const int64_t last = t.columns - (NV - 1) * L;  // lanes of the last vector in use
  const int64_t a_row = kPairsTouch ? t.a_row : 2;
  const int64_t a_pair = kPairsTouch ? 2 : t.a_pair;
  const int64_t block = t.block_pairs > 0 ? t.block_pairs : t.pairs;
  const bool fetches = t.pairs > 2 * kPrefetchRows;
  const VecF low = VecF::set1(t.low), high = VecF::set1(t.high);
  const auto* of_columns = t.bias_is_per_row ? nullptr : t.bias;

  for (; count > 0; --count) {
    VecF acc[MR][NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      VecF start = VecF::set1(0);
      if (of_columns != nullptr && j + 1 < NV) start = load(of_columns + j * L);
      if (of_columns != nullptr && j + 1 == NV) {
        if constexpr (kShared) {
          start = load_twice(of_columns + j * L, last);
        } else {
          start = load_partial(of_columns + j * L, last);
        }
      }
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) acc[i][j] = start;
    }
    if (t.bias_is_per_row && t.bias != nullptr) {
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) {
        const VecF start = VecF::set1(t.bias[i]);
        for (int j = 0; j < NV; ++j) acc[i][j] = start;
        if constexpr (kShared) {
          if (i % 2 == 1) acc[i - 1][NV - 1] = halves(acc[i - 1][NV - 1], start);
        }
      }
      t.bias += MR;
    }

    const bfloat16* a[kPointers];
    for (int i = 0; i < kPointers; ++i) {
      a[i] = t.a + i * kRowsAPointer * a_row;
      forget_origin(a[i]);
    }
    const bfloat16* b = t.b;
    const auto advance = [&](int64_t elements) __attribute__((always_inline)) {
      for (int i = 0; i < kPointers; ++i) {
        a[i] += elements;
        forget_origin(a[i]);
      }
    };
    const auto step = [&](int64_t u) __attribute__((always_inline)) {
      VecPairs row[NV];
      for (int j = 0; fetches && j < NV; ++j) {
        __builtin_prefetch(b + kPrefetchRows * t.b_row + 2 * j * L);
      }
      for (int j = 0; j + 1 < NV; ++j) row[j] = load_pairs(b + 2 * j * L);
      if constexpr (kShared) {
        row[NV - 1] = load_pairs_twice(b + 2 * (NV - 1) * L, last);
      } else {
        row[NV - 1] = load_pairs_partial(b + 2 * (NV - 1) * L, last);
      }
      b += t.b_row;
      VecPairs above = row[0];
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) {
        const VecPairs x =
            set1_pair(a[i / kRowsAPointer] + (i % kRowsAPointer) * a_row + u * a_pair);
#pragma GCC unroll 4
        for (int j = 0; j + 1 < NV + !kShared; ++j) acc[i][j] = fma_pairs(x, row[j], acc[i][j]);
        if constexpr (kShared) {
          VecF& both = acc[i / 2 * 2][NV - 1];
          if (i % 2 == 1) both = fma_pairs(halves(above, x), row[NV - 1], both);
          if (i % 2 == 0 && i + 1 == MR) both = fma_pairs(x, row[NV - 1], both);
          above = x;
        }
      }
    };
    for (int64_t left = t.pairs; left > 0; left -= block) {
      int64_t k = min_of(left, block);
      for (; k >= 2; k -= 2) {
        step(0), step(1);
        advance(2 * a_pair);
      }
      if (k > 0) {
        step(0);
        advance(a_pair);
      }
      advance(t.a_block - block * a_pair);
    }

    if (!kShared && last == L && t.residual == nullptr && !t.streams) {  // most tiles
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) {
        C* c = t.c + i * t.c_row;
        for (int j = 0; j < NV; ++j) acc[i][j] = min(high, max(low, acc[i][j]));
        if constexpr (NV == 2 && std::is_same_v<C, bfloat16>) {
          store_two(c, acc[i][0], acc[i][1]);
        } else {
          for (int j = 0; j < NV; ++j) store(c + j * L, acc[i][j]);
        }
      }
    } else {
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) {
        C* c = t.c + i * t.c_row;
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) {
          VecF z = acc[i][j];
          if constexpr (kShared) {
            if (j + 1 == NV && i % 2 == 1) z = upper_half(acc[i - 1][j]);
          }
          const int64_t lanes = j + 1 < NV ? L : last;
          if (t.residual != nullptr) {
            z = z + load_partial(t.residual + i * t.residual_row + j * L, lanes);
          }
          put(c + j * L, min(high, max(low, z)), lanes, t.streams);
        }
      }
    }
    t.a += MR * a_row;
    t.c += MR * t.c_row;
    if (t.residual != nullptr) t.residual += MR * t.residual_row;
  }
}

template <class C, int NV, bool kShared, bool kPairsTouch, int... i>
void choose_rows(const PairTile<C>& t, std::integer_sequence<int, i...>) {
  using Function = void (*)(PairTile<C>, int64_t);
  static constexpr Function kInstances[] = {tiles<C, i + 1, NV, kShared, kPairsTouch>...};
  // Tiles that differ by one row at most, the taller ones first.
  const int64_t count = div_up<int64_t>(t.rows, sizeof...(i)), rows = t.rows / count;
  const int64_t taller = t.rows % count;
  PairTile<C> part = t;
  if (taller > 0) {
    kInstances[rows](t, taller);
    const int64_t first = taller * (rows + 1);
    part.a += first * t.a_row, part.c += first * t.c_row;
    if (t.residual != nullptr) part.residual += first * t.residual_row;
    if (t.bias_is_per_row && t.bias != nullptr) part.bias += first;
  }
  kInstances[rows - 1](part, count - taller);
}

template <class C, int NV, bool kPairsTouch>
void choose_sharing(const PairTile<C>& t) {
  if constexpr (kCanShare) {
    if (t.columns - (NV - 1) * kLanes<float> <= kLanes<float> / 2) {
      constexpr auto kIndices = std::make_integer_sequence<int, kRows<NV, true>>{};
      return choose_rows<C, NV, true, kPairsTouch>(t, kIndices);
    }
  }
  constexpr auto kIndices = std::make_integer_sequence<int, kRows<NV, false>>{};
  choose_rows<C, NV, false, kPairsTouch>(t, kIndices);
}

template <class C, bool kPairsTouch>
FASTCONV_INLINE void choose_columns(const PairTile<C>& t) {
  constexpr int L = kLanes<float>;
  if (t.columns <= L) return choose_sharing<C, 1, kPairsTouch>(t);
  if (t.columns <= 2 * L) return choose_sharing<C, 2, kPairsTouch>(t);
  choose_sharing<C, 3, kPairsTouch>(t);
}

template <class C>
void choose(const PairTile<C>& t) {
  t.a_pair == 2 ? choose_columns<C, true>(t) : choose_columns<C, false>(t);
}

}  // namespace

void pair_tile(const PairTile<float>& t) {
  choose(t);
}

void pair_tile(Tiles&, const PairTile<bfloat16>& t, Activation activation) {
  if (is_clamped(activation)) return choose(t);
  constexpr int64_t L = kLanes<float>, kRow = kTileColumns<float>;
  float sums[kPairRows * kRow];
  PairTile<float> wide{};
  wide.a_row = t.a_row, wide.a_pair = t.a_pair, wide.block_pairs = t.block_pairs,
  wide.a_block = t.a_block;
  wide.b = t.b, wide.b_row = t.b_row;
  wide.bias = t.bias, wide.bias_is_per_row = t.bias_is_per_row;
  wide.c = sums, wide.c_row = kRow;
  wide.columns = t.columns, wide.pairs = t.pairs, wide.low = t.low, wide.high = t.high;
  for (int64_t first = 0; first < t.rows; first += kPairRows) {
    wide.rows = min_of<int64_t>(kPairRows, t.rows - first);
    wide.a = t.a + first * t.a_row;
    if (t.bias_is_per_row && t.bias != nullptr) wide.bias = t.bias + first;
    choose(wide);
    dispatch_activation(activation, [&](auto op) {
      for (int64_t i = 0; i < wide.rows; ++i) {
        const int64_t row = first + i;
        for (int64_t j = 0; j < t.columns; j += L) {
          const int64_t lanes = min_of(L, t.columns - j);
          VecF z = load(sums + i * kRow + j);
          if (t.residual != nullptr) {
            z = z + load_partial(t.residual + row * t.residual_row + j, lanes);
          }
          store_partial(t.c + row * t.c_row + j, op.forward(z), lanes);
        }
      }
    });
  }
}

}  // namespace fastconv::FASTCONV_ISA
