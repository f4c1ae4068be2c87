// The products of gemm_bfloat16.h by matrix tiles: sums of up to 32 rows and 32 columns in four
// registers. While the tiles of a block run, the sums of the block before it are rounded.
#include <utility>

#include "gemm_bfloat16.h"
#include "simd/pairs.h"

namespace fastconv::FASTCONV_ISA {
namespace {

// Down and across. One core of an Intel Xeon with AMX, clock ticks for 1024 sums, by 64 x 16 with a
// shape of the registers for each column of tiles and rounding at the end / so: 224 x 32 to 32
// columns, ReLU6: 407 / 352, 98 x 64 to 32: 600 / 474, 112 x 192 to 32: 936 / 742, 98 x 576 to 96:
// 3000 / 2419, 49 x 960 to 160: 4671 / 4510; 49 x 320 to 1280: 1359 / 1507, b's rows there share
// sets of the L1 cache and come twice. The products alone are 54 for each 32 of the depth;
// beyond the L1 cache, loads take two to three times that.
constexpr int64_t kBlockTiles = 2;
constexpr int64_t kBlockColumns = kBlockTiles * kTileRegisterColumns;
constexpr int64_t kBlockRows = kBlockTiles * kTileRegisterRows;
constexpr int64_t kTileElements = kTilePairs * kTileRegisterColumns * 2;  // of b

// Rows in tiles of one height; the last one lies over the one before it where they do not divide.
struct RowTiles {
  int64_t rows, count, height;

  FASTCONV_INLINE explicit RowTiles(int64_t rows)
      : rows(rows), count(div_up<int64_t>(rows, kTileRegisterRows)), height(div_up(rows, count)) {}
  FASTCONV_INLINE int64_t first(int64_t i) const { return min_of(i * height, rows - height); }
};

// A column of tiles of b. Where it is narrower than a register, its tiles reach into what follows
// in memory, columns that nobody reads; the last ones are copied, so that none reaches past b.
class ColumnTiles {
 public:
  FASTCONV_INLINE void set(const PairTile<bfloat16>& t, int64_t column) {
    const int64_t columns = min_of<int64_t>(kTileRegisterColumns, t.columns - column);
    const int64_t steps = div_up<int64_t>(t.pairs, kTilePairs);
    b_ = t.b + 2 * column, row_ = t.b_row, in_place_ = steps;
    if (columns == kTileRegisterColumns) return;
    in_place_ = max_of<int64_t>(steps - kCopied, 0);
    constexpr int64_t L = kLanes<float>;
    auto* to = reinterpret_cast<float*>(copied_);
    for (int64_t p = in_place_ * kTilePairs; p < t.pairs; ++p, to += kTileRegisterColumns) {
      const auto* from = reinterpret_cast<const float*>(b_ + p * row_);
      for (int64_t j = 0; j < columns; j += L) {
        store(to + j, load_partial(from + j, min_of(L, columns - j)));
      }
    }
  }

  template <int R>
  FASTCONV_INLINE void load(Tiles& tiles, int64_t step) const {
    constexpr int64_t kBytes = sizeof(bfloat16);
    const bool copied = step >= in_place_;
    const bfloat16* from =
        copied ? copied_ + (step - in_place_) * kTileElements : b_ + step * kTilePairs * row_;
    tiles.load<R>(from, copied ? 2 * kTileRegisterColumns * kBytes : row_ * kBytes);
  }

 private:
  // What is not copied is followed by more than 16 rows of b, and reaches 15 columns too far.
  static constexpr int64_t kCopied = 2;

  const bfloat16* b_;
  int64_t row_, in_place_;
  alignas(64) bfloat16 copied_[kCopied * kTileElements];
};

// A block whose sums are in memory and wait to be rounded.
struct Sums {
  const float* at;  // rows of kBlockColumns
  int64_t rows, columns;
  bfloat16* c;
  const bfloat16* residual;
  const float* bias;  // one value a row, or null: those of columns are in the sums
};

// Two vectors, or some lanes of one, of row i from column j on.
template <class Op, int N>
FASTCONV_INLINE void round_vectors(const PairTile<bfloat16>& t, const Sums& s, int64_t i, int64_t j,
                                   int64_t lanes) {
  constexpr int64_t L = kLanes<float>;
  VecF z[N];
  for (int k = 0; k < N; ++k) z[k] = load(s.at + i * kBlockColumns + j + k * L);
  if (s.bias != nullptr) {
    for (int k = 0; k < N; ++k) z[k] = z[k] + VecF::set1(s.bias[i]);
  }
  if (s.residual != nullptr) {
    const bfloat16* from = s.residual + i * t.residual_row + j;
    for (int k = 0; k < N; ++k) {
      z[k] = z[k] + (N == 2 ? load(from + k * L) : load_partial(from, lanes));
    }
  }
  for (int k = 0; k < N; ++k) z[k] = Op::forward(z[k]);
  bfloat16* c = s.c + i * t.c_row + j;
  if constexpr (N == 2) {
    if (!t.streams) return store_two(c, z[0], z[1]);
    stream(c, z[0]), stream(c + L, z[1]);
  } else {
    put(c, z[0], lanes, t.streams);
  }
}

// Rows [first, last) of a block, N vectors from column j on, where each store and each sum is as
// most are. The loop keeps what it reads of t and s: a store may change those, to the compiler.
// Clock ticks a call without it / with it: 112 x 32 to 16 columns 1421 / 584, 56 x 96 to 24
// 1160 / 788, 112 x 144 to 24 and a residual 2878 / 2354 (one core of an Intel Xeon with AMX).
template <class Op, int N, bool kAdds>
FASTCONV_INLINE void round_plainly(const PairTile<bfloat16>& t, const Sums& s, int64_t first,
                                   int64_t last, int64_t j, int64_t lanes) {
  constexpr int64_t L = kLanes<float>;
  const int64_t c_row = t.c_row, residual_row = t.residual_row, behind = lanes - (N - 1) * L;
  const float* from = s.at + first * kBlockColumns + j;
  const bfloat16* residual = kAdds ? s.residual + first * residual_row + j : nullptr;
  bfloat16* c = s.c + first * c_row + j;
  for (int64_t i = first; i < last; ++i, from += kBlockColumns, c += c_row) {
    VecF z[N];
    for (int k = 0; k < N; ++k) z[k] = load(from + k * L);
    if constexpr (kAdds) {
      if constexpr (N == 2) z[0] = z[0] + load(residual);
      z[N - 1] = z[N - 1] + load_partial(residual + (N - 1) * L, behind);
      residual += residual_row;
    }
    for (int k = 0; k < N; ++k) z[k] = Op::forward(z[k]);
    if constexpr (N == 2) {
      store_two_partial(c, z[0], z[1], lanes);
    } else {
      store_partial(c, z[0], lanes);
    }
  }
}

// Rows [first, last) of a block.
template <class Op>
void round_rows(const PairTile<bfloat16>& t, const Sums& s, int64_t first, int64_t last) {
  constexpr int64_t L = kLanes<float>;
  if (s.bias == nullptr && !t.streams) {
    const bool adds = s.residual != nullptr;
    int64_t j = 0;
    for (; j + L < s.columns; j += 2 * L) {
      const int64_t lanes = min_of(2 * L, s.columns - j);
      adds ? round_plainly<Op, 2, true>(t, s, first, last, j, lanes)
           : round_plainly<Op, 2, false>(t, s, first, last, j, lanes);
    }
    if (j < s.columns) {
      adds ? round_plainly<Op, 1, true>(t, s, first, last, j, s.columns - j)
           : round_plainly<Op, 1, false>(t, s, first, last, j, s.columns - j);
    }
    return;
  }
  int64_t j = 0;
  for (; j + 2 * L <= s.columns; j += 2 * L) {
    for (int64_t i = first; i < last; ++i) round_vectors<Op, 2>(t, s, i, j, 2 * L);
  }
  for (; j < s.columns; j += L) {
    const int64_t lanes = min_of(L, s.columns - j);
    for (int64_t i = first; i < last; ++i) round_vectors<Op, 1>(t, s, i, j, lanes);
  }
}

// Rounds a block in as many parts as the tiles of the next one leave it.
template <class Op>
struct Rounding {
  const PairTile<bfloat16>& t;
  Sums sums;

  FASTCONV_INLINE void part(int64_t i, int64_t of) const {
    round_rows<Op>(t, sums, i * sums.rows / of, (i + 1) * sums.rows / of);
  }
};

// A step of the depth: DOWN tiles of a by ACROSS of b, each product followed by f of its number.
// The second tiles go to the registers A2 and B2; where those are A and B, b's first comes twice.
template <int A, int B, int A2, int B2, int DOWN, int ACROSS, class F>
FASTCONV_INLINE void multiply(Tiles& tiles, const bfloat16* const (&a)[kBlockTiles], int64_t a_row,
                              const ColumnTiles (&b)[kBlockTiles], int64_t step, F&& f) {
  b[0].load<B>(tiles, step), tiles.load<A>(a[0], a_row);
  tiles.multiply<0, A, B>();
  f(0);
  if constexpr (ACROSS == 2) {
    b[1].load<B2>(tiles, step), tiles.multiply<1, A, B2>();
    f(1);
  }
  if constexpr (DOWN == 2 && ACROSS == 2) {
    tiles.load<A2>(a[1], a_row), tiles.multiply<3, A2, B2>();
    f(2);
    if constexpr (B == B2) b[0].load<B>(tiles, step);
    tiles.multiply<2, A2, B>(), f(3);
  } else if constexpr (DOWN == 2) {
    tiles.load<A2>(a[1], a_row), tiles.multiply<2, A2, B>();
    f(1);
  }
}

// Registers C and C + 1 start with a bias each column, or zero.
template <int C, int ACROSS>
FASTCONV_INLINE void begin_row(Tiles& tiles, const float* bias) {
  if (bias == nullptr) {
    tiles.zero<C>();
    if constexpr (ACROSS == 2) tiles.zero<C + 1>();
  } else {
    tiles.load<C>(bias, 0);
    if constexpr (ACROSS == 2) tiles.load<C + 1>(bias + kTileRegisterColumns, 0);
  }
}

// Tiles of a from rows at `a`, tile 1 `second` rows below tile 0; rounds what waits on the way.
template <int DOWN, int ACROSS, bool kUniform, class Op>
void sum_block(Tiles& tiles, const PairTile<bfloat16>& t, const bfloat16* rows, int64_t second,
               const ColumnTiles (&b)[kBlockTiles], const float* bias, float* sums,
               const Rounding<Op>& before) {
  constexpr int64_t kRow = kBlockColumns * sizeof(float);
  constexpr int kProducts = DOWN * ACROSS;
  const int64_t a_row = t.a_row * int64_t(sizeof(bfloat16));
  // A block of the depth is that of a register.
  const int64_t a_step = t.block_pairs > 0 ? t.a_block : 2 * kTilePairs;
  const int64_t last = (t.pairs - 1) / kTilePairs;
  const bfloat16* a[kBlockTiles] = {rows, rows + second * t.a_row};
  begin_row<0, ACROSS>(tiles, bias);
  if constexpr (DOWN == 2) begin_row<2, ACROSS>(tiles, bias);
  for (int64_t step = 0; step < last; ++step) {
    multiply<4, 5, kUniform ? 6 : 4, kUniform ? 7 : 5, DOWN, ACROSS>(tiles, a, a_row, b, step,
                                                                     [](int) {});
    a[0] += a_step, a[1] += a_step;
  }
  if (t.pairs == 0) {  // a sum of nothing
    before.part(0, 1);
  } else {
    multiply<kUniform ? 4 : 6, kUniform ? 5 : 7, 6, 7, DOWN, ACROSS>(
        tiles, a, a_row, b, last, [&](int i) { before.part(i, kProducts); });
  }
  tiles.store<0>(sums, kRow);
  if constexpr (ACROSS == 2) tiles.store<1>(sums + kTileRegisterColumns, kRow);
  float* below = sums + second * kBlockColumns;
  if constexpr (DOWN == 2) tiles.store<2>(below, kRow);
  if constexpr (DOWN * ACROSS == 4) tiles.store<3>(below + kTileRegisterColumns, kRow);
}

template <bool kUniform, class Op>
void sum_blocks(Tiles& tiles, const PairTile<bfloat16>& t) {
  alignas(64) float sums[2][kBlockRows * kBlockColumns];
  ColumnTiles b[2][kBlockTiles];  // of two groups of columns
  static_assert(kPairColumns <= 2 * kBlockColumns);
  for (int64_t column = 0; column < t.columns; column += kTileRegisterColumns) {
    const int64_t i = column / kTileRegisterColumns;
    b[i / kBlockTiles][i % kBlockTiles].set(t, column);
  }
  alignas(64) float bias[kPairColumns];
  const bool adds_bias = t.bias != nullptr && !t.bias_is_per_row;
  for (int64_t j = 0; adds_bias && j < t.columns; j += kLanes<float>) {
    store(bias + j, load_partial(t.bias + j, min_of<int64_t>(kLanes<float>, t.columns - j)));
  }
  const RowTiles rows(t.rows);
  const auto last_pairs = uint8_t(max_of<int64_t>(t.pairs - 1, 0) % kTilePairs + 1);
  tiles.set_shape({uint8_t(rows.height), kTileRegisterColumns, last_pairs,
                   kUniform ? last_pairs : uint8_t(kTilePairs)});
  Rounding<Op> before{t, {}};
  int64_t done = 0;
  bool odd = false;
  for (int64_t i = 0; i < rows.count; i += kBlockTiles) {
    const bool two = i + 1 < rows.count;
    const int64_t first = rows.first(i), second = two ? rows.first(i + 1) - first : 0;
    const int64_t until = first + second + rows.height;
    for (int64_t column = 0; column < t.columns; column += kBlockColumns) {
      const auto& group = b[column / kBlockColumns];
      const int64_t columns = min_of(kBlockColumns, t.columns - column);
      const bool wide = columns > kTileRegisterColumns;
      float* to = sums[odd];
      const auto sum = two    ? wide ? sum_block<2, 2, kUniform, Op> : sum_block<2, 1, kUniform, Op>
                       : wide ? sum_block<1, 2, kUniform, Op>
                              : sum_block<1, 1, kUniform, Op>;
      sum(tiles, t, t.a + first * t.a_row, second, group, adds_bias ? bias + column : nullptr, to,
          before);
      const bfloat16* residual =
          t.residual == nullptr ? nullptr : t.residual + done * t.residual_row + column;
      before.sums = {to + (done - first) * kBlockColumns,
                     until - done,
                     columns,
                     t.c + done * t.c_row + column,
                     residual,
                     t.bias != nullptr && t.bias_is_per_row ? t.bias + done : nullptr};
      odd = !odd;
    }
    done = until;
  }
  before.part(0, 1);
}

}  // namespace

void pair_tile(Tiles& tiles, const PairTile<bfloat16>& t, Activation activation) {
  const bool uniform = t.pairs <= kTilePairs || t.pairs % kTilePairs == 0;
  dispatch_activation(activation, [&](auto op) {
    using Op = decltype(op);
    uniform ? sum_blocks<true, Op>(tiles, t) : sum_blocks<false, Op>(tiles, t);
  });
}

}  // namespace fastconv::FASTCONV_ISA
