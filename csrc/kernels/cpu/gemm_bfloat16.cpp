// The tile in registers, one instance for each number of rows and vectors; see gemm.cpp for why the
// pointers and the prefetch are as they are.
#include "gemm_bfloat16.h"

#include <utility>

#include "simd/pairs.h"

namespace fastconv::FASTCONV_ISA {
namespace {

constexpr int kRowsAPointer = 3;
constexpr int64_t kPrefetchRows = 16;

FASTCONV_INLINE void forget_origin(const bfloat16*& pointer) {
  asm("" : "+r"(pointer));
}

template <class C>
FASTCONV_INLINE void put(C* to, VecF value, int64_t lanes, bool streams) {
  if (lanes != kLanes<float>) return store_partial(to, value, lanes);
  streams ? stream(to, value) : store(to, value);
}

template <class C, int MR, int NV, bool kPairsTouch>
void tile(const PairTile<C>& t) {
  constexpr int L = kLanes<float>;
  constexpr int kPointers = (MR + kRowsAPointer - 1) / kRowsAPointer;
  const int64_t last = t.columns - (NV - 1) * L;  // lanes of the last vector in use

  VecF acc[MR][NV];
  VecF start[NV];
  for (int j = 0; j < NV; ++j) start[j] = VecF::set1(0);
  if (t.bias != nullptr) {
    for (int j = 0; j + 1 < NV; ++j) start[j] = load(t.bias + j * L);
    start[NV - 1] = load_partial(t.bias + (NV - 1) * L, last);
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) acc[i][j] = start[j];
  }

  const int64_t a_row = kPairsTouch ? t.a_row : 2;
  const int64_t a_pair = kPairsTouch ? 2 : t.a_pair;
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
    for (int j = 0; j < NV; ++j) __builtin_prefetch(b + kPrefetchRows * t.b_row + 2 * j * L);
    for (int j = 0; j + 1 < NV; ++j) row[j] = load_pairs(b + 2 * j * L);
    row[NV - 1] = load_pairs_partial(b + 2 * (NV - 1) * L, last);
    b += t.b_row;
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const bfloat16* p = a[i / kRowsAPointer] + (i % kRowsAPointer) * a_row + u * a_pair;
      const VecPairs x = set1_pair(p);
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) acc[i][j] = fma_pairs(x, row[j], acc[i][j]);
    }
  };
  const int64_t block = t.block_pairs > 0 ? t.block_pairs : t.pairs;
  for (int64_t left = t.pairs; left > 0; left -= block) {
    int64_t k = min_of(left, block);
    for (; k >= 4; k -= 4) {
      step(0), step(1), step(2), step(3);
      advance(4 * a_pair);
    }
    for (; k > 0; --k) {
      step(0);
      advance(a_pair);
    }
    advance(t.a_block - block * a_pair);
  }

  const VecF low = VecF::set1(t.low), high = VecF::set1(t.high);
  if (last == L && t.residual == nullptr && !t.streams) {  // most tiles: no branch a vector
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) {
        store(t.c + i * t.c_row + j * L, min(high, max(low, acc[i][j])));
      }
    }
    return;
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
    C* c = t.c + i * t.c_row;
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      VecF z = acc[i][j];
      const int64_t lanes = j + 1 < NV ? L : last;
      if (t.residual != nullptr) {
        z = z + load_partial(t.residual + i * t.residual_row + j * L, lanes);
      }
      put(c + j * L, min(high, max(low, z)), lanes, t.streams);
    }
  }
}

template <class C, int NV, bool kPairsTouch, int... i>
void choose_rows(const PairTile<C>& t, std::integer_sequence<int, i...>) {
  using Function = void (*)(const PairTile<C>&);
  static constexpr Function kInstances[] = {tile<C, i + 1, NV, kPairsTouch>...};
  kInstances[t.rows - 1](t);
}

template <class C, bool kPairsTouch>
FASTCONV_INLINE void choose_columns(const PairTile<C>& t) {
  constexpr int L = kLanes<float>;
  constexpr auto kRows = std::make_integer_sequence<int, kPairRows>{};
  if (t.columns <= L) return choose_rows<C, 1, kPairsTouch>(t, kRows);
  if (t.columns <= 2 * L) return choose_rows<C, 2, kPairsTouch>(t, kRows);
  constexpr auto kWideRows = std::make_integer_sequence<int, kWidePairRows>{};
  const int64_t parts = div_up<int64_t>(t.rows, kWidePairRows);
  PairTile<C> part = t;
  for (int64_t i = 0, first = 0; i < parts; ++i, first += part.rows) {
    part.rows = (t.rows - first) / (parts - i);
    part.a = t.a + first * t.a_row;
    part.c = t.c + first * t.c_row;
    if (t.residual != nullptr) part.residual = t.residual + first * t.residual_row;
    choose_rows<C, 3, kPairsTouch>(part, kWideRows);
  }
}

}  // namespace

void pair_tile(const PairTile<float>& t) {
  t.a_pair == 2 ? choose_columns<float, true>(t) : choose_columns<float, false>(t);
}

void pair_tile(const PairTile<bfloat16>& t, Activation activation) {
  if (is_clamped(activation)) return choose_columns<bfloat16, true>(t);
  constexpr int64_t L = kLanes<float>, kRow = kTileColumns<float>;
  float sums[kPairRows * kRow];
  PairTile<float> wide{t.a,     t.a_row,   t.a_pair, t.block_pairs, t.a_block, t.b,
                       t.b_row, sums,      kRow,     nullptr,       0,         t.bias,
                       t.rows,  t.columns, t.pairs,  t.low,         t.high,    false};
  choose_columns<float, true>(wide);
  dispatch_activation(activation, [&](auto op) {
    for (int64_t i = 0; i < t.rows; ++i) {
      for (int64_t j = 0; j < t.columns; j += L) {
        const int64_t lanes = min_of(L, t.columns - j);
        VecF z = load(sums + i * kRow + j);
        if (t.residual != nullptr) {
          z = z + load_partial(t.residual + i * t.residual_row + j, lanes);
        }
        store_partial(t.c + i * t.c_row + j, op.forward(z), lanes);
      }
    }
  });
}

}  // namespace fastconv::FASTCONV_ISA
