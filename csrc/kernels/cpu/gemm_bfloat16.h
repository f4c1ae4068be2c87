// A panel of a matrix product of bfloat16, two steps of the depth at a time.
#pragma once

#include "../common/activation.h"
#include "gemm.h"
#include "simd/tiles.h"

namespace fastconv::FASTCONV_ISA {

// c[i][j] = min(high, max(low, bias[j] + sum over k of a[i][k] * b[k][j] + residual[i][j])), summed
// in float32 and rounded once where C is bfloat16. Each element is one chain in the order of k.
// What multiplies a[i][2p] and a[i][2p + 1] lies together: b[2p + k][j] at b + p * b_row + 2j + k.
template <class C>
struct PairTile {
  const bfloat16* a;
  // Elements from a row to the next, from a pair of columns to the next; one of the two is 2, for
  // matrix tiles the latter.
  int64_t a_row, a_pair;
  // The depth of a may come in blocks of block_pairs that lie together, a_block elements from one
  // to the next; block_pairs 0: in one.
  int64_t block_pairs, a_block;
  const bfloat16* b;  // (pairs, columns, 2)
  int64_t b_row;      // elements from a pair of rows of b to the next
  C* c;               // (rows, columns)
  int64_t c_row;
  const C* residual;  // (rows, columns) or null; may be c itself
  int64_t residual_row;
  const float* bias;  // one value a column, or a row, or null
  bool bias_is_per_row;
  int64_t rows, columns, pairs;  // columns <= kPairColumns
  float low, high;
  bool streams;  // past the caches: then c and c_row are whole vectors from address 0
};

// Rows of a register tile with two vectors of columns, or of two blocks of matrix tiles; the
// sources tell why.
constexpr int kPairRows = kHasTiles ? 64 : kLanes<float> == 16 ? 8 : 4;

// Groups of rows that one call takes: several register tiles, yet work for several threads. Whole
// blocks, us by 7 / 28 tiles: separable 32 -> 16, 112x112: 81.4 / 74.0, inverted 24 -> 144 -> 24,
// 56x56: 145 / 143, all others within 1 % (one core of a Zen 5).
constexpr int64_t kGroupRows = kHasTiles ? kPairRows : 28 * kPairRows;

// Panels as in gemm.h, but of matrix tiles where there are some.
constexpr int64_t kPairLanes = kHasTiles ? kTileRegisterColumns : kLanes<float>;
constexpr int64_t kPairColumns = 3 * kPairLanes;

FASTCONV_INLINE int64_t pair_panel_count(int64_t columns) {
  return panel_count<float, kPairLanes>(columns);
}

FASTCONV_INLINE Range pair_panel_at(int64_t panel, int64_t columns) {
  return panel_at<float, kPairLanes>(panel, columns);
}

FASTCONV_INLINE int64_t row_groups(int64_t rows) {
  return div_up<int64_t>(rows, kGroupRows);
}

// Whether a tile can do the activation itself, as a clamp between low and high.
FASTCONV_INLINE bool is_clamped(Activation act) {
  return act != Activation::kSiLU && act != Activation::kHardswish;
}

template <class C>
FASTCONV_INLINE void set_clamp(PairTile<C>& t, Activation act) {
  constexpr float kInfinity = __builtin_inff();
  t.low = act == Activation::kReLU || act == Activation::kReLU6 ? 0 : -kInfinity;
  t.high = act == Activation::kReLU6 ? 6 : kInfinity;
}

template <class C>
FASTCONV_INLINE void put(C* to, VecF value, int64_t lanes, bool streams) {
  if (lanes != kLanes<float>) return store_partial(to, value, lanes);
  streams ? stream(to, value) : store(to, value);
}

void pair_tile(const PairTile<float>& tile);
// low and high as set_clamp gives them; any other activation is applied before the rounding. A
// unit of work makes one `tiles` for all its calls.
void pair_tile(Tiles& tiles, const PairTile<bfloat16>& tile, Activation activation);

}  // namespace fastconv::FASTCONV_ISA
