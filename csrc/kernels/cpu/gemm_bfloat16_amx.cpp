// The products of gemm_bfloat16.h by matrix tiles: sums of up to 64 rows in four registers, a
// column of tiles after the other, then rounded row by row.
#include <utility>

#include "gemm_bfloat16.h"

namespace fastconv::FASTCONV_ISA {
namespace {

// Chosen by counting: with a and b twice, for the end of the depth, four registers are left for
// sums. Each step then loads five registers for four products, and the processor that loads two
// lines a cycle needs 8 cycles a load, 16 a product. Never timed on a processor that has tiles.
constexpr int kMostTiles = 4;
constexpr int64_t kMostRows = kMostTiles * kTileRegisterRows;
static_assert(kMostRows == kPairRows);

// Rows in tiles of one height; the last one lies over the one before it where they do not divide.
struct RowTiles {
  int64_t rows, count, height;

  FASTCONV_INLINE explicit RowTiles(int64_t rows)
      : rows(rows), count(div_up<int64_t>(rows, kTileRegisterRows)), height(div_up(rows, count)) {}
  FASTCONV_INLINE int64_t first(int64_t i) const { return min_of(i * height, rows - height); }
};

// Sums of some columns, up to a register's; sums are rows of kPairColumns.
template <int... i>
void sum_columns(Tiles& tiles, const PairTile<bfloat16>& t, const RowTiles& rows, int64_t column,
                 float* sums, std::integer_sequence<int, i...>) {
  constexpr int64_t kBytes = sizeof(bfloat16), kRow = kPairColumns * sizeof(float);
  const int64_t a_row = t.a_row * kBytes, b_row = t.b_row * kBytes;
  const int64_t of_tile[] = {rows.first(i) * t.a_row...};
  // A block of the depth is that of a register.
  const int64_t a_step = t.block_pairs > 0 ? t.a_block : 2 * kTilePairs;
  const bfloat16 *a = t.a, *b = t.b + 2 * column;
  if (t.bias != nullptr && !t.bias_is_per_row) {
    (tiles.load<i>(t.bias + column, 0), ...);
  } else {
    (tiles.zero<i>(), ...);
  }
  for (int64_t left = t.pairs; left > kTilePairs; left -= kTilePairs) {
    tiles.load<5>(b, b_row);
    ((tiles.load<4>(a + of_tile[i], a_row), tiles.multiply<i, 4, 5>()), ...);
    a += a_step, b += kTilePairs * t.b_row;
  }
  tiles.load<7>(b, b_row);
  ((tiles.load<6>(a + of_tile[i], a_row), tiles.multiply<i, 6, 7>()), ...);
  (tiles.store<i>(sums + rows.first(i) * kPairColumns + column, kRow), ...);
}

void sum_columns(Tiles& tiles, const PairTile<bfloat16>& t, const RowTiles& rows, int64_t column,
                 float* sums) {
  const auto sum = [&](auto counted) { sum_columns(tiles, t, rows, column, sums, counted); };
  switch (rows.count) {
    case 1:
      return sum(std::make_integer_sequence<int, 1>{});
    case 2:
      return sum(std::make_integer_sequence<int, 2>{});
    case 3:
      return sum(std::make_integer_sequence<int, 3>{});
    default:
      return sum(std::make_integer_sequence<int, kMostTiles>{});
  }
}

void finish(const PairTile<bfloat16>& t, const float* sums, Activation activation) {
  constexpr int64_t L = kLanes<float>;
  dispatch_activation(activation, [&](auto op) {
    for (int64_t i = 0; i < t.rows; ++i) {
      const bool adds = t.bias_is_per_row && t.bias != nullptr;
      const VecF bias = VecF::set1(adds ? t.bias[i] : 0);
      for (int64_t j = 0; j < t.columns; j += L) {
        const int64_t lanes = min_of(L, t.columns - j);
        VecF z = load(sums + i * kPairColumns + j) + bias;
        if (t.residual != nullptr) {
          z = z + load_partial(t.residual + i * t.residual_row + j, lanes);
        }
        put(t.c + i * t.c_row + j, op.forward(z), lanes, t.streams);
      }
    }
  });
}

}  // namespace

void pair_tile(Tiles& tiles, const PairTile<bfloat16>& whole, Activation activation) {
  alignas(64) float sums[kMostRows * kPairColumns];
  const auto last_pairs = uint8_t((whole.pairs - 1) % kTilePairs + 1);
  PairTile<bfloat16> t = whole;
  for (int64_t first = 0; first < whole.rows; first += kMostRows) {
    t.rows = min_of(kMostRows, whole.rows - first);
    const RowTiles rows(t.rows);
    for (int64_t column = 0; column < t.columns; column += kTileRegisterColumns) {
      const int64_t columns = min_of<int64_t>(kTileRegisterColumns, t.columns - column);
      tiles.set_shape({uint8_t(rows.height), uint8_t(columns), last_pairs});
      sum_columns(tiles, t, rows, column, sums);
    }
    finish(t, sums, activation);
    t.a += kMostRows * t.a_row, t.c += kMostRows * t.c_row;
    if (t.residual != nullptr) t.residual += kMostRows * t.residual_row;
    if (t.bias_is_per_row && t.bias != nullptr) t.bias += kMostRows;
  }
}

}  // namespace fastconv::FASTCONV_ISA
