// Register tiles down a panel, one instance for each number of rows and vectors.
#include "gemm.h"

#include <type_traits>
#include <utility>

#include "simd/pointers.h"

namespace fastconv::FASTCONV_ISA {
namespace {

// What the columns leave for the last vector of a row: all lanes; some, under a mask; at most half
// of them (24 or 40 columns), so that two rows share a vector.
enum class Last { kWhole, kPart, kShared };

template <class S>
constexpr bool kCanShare = kLanes<S> == 16;

// Rows of a tile of NV vectors. Fewer accumulators than there are registers: a store of 64 bytes
// takes the place of up to two fma, and a tile's stores come in one burst, which hides behind the
// fma of the next tile the better the shorter it is. But eight rows of two vectors, four of three
// and four of four fall into a bad rhythm of the two fma units. gemm_tile alone, two vectors, depth
// 16 / 64 / 256 / 512, fraction of the fma peak: 6 rows 0.90 0.97 0.97 0.98, 7: 0.90 0.96 0.97
// 0.98, 8: 0.82 0.90 0.85 0.84, 9: 0.85 0.94 0.95 0.94, 10: 0.81 0.95 0.97 0.97, 14: 0.77 0.93 0.97
// 0.98 (one core of a Zen 5). Seven divides the pixels of all maps of 224x224 networks. Where the
// rows of a lie beside each other, as in the weight gradient, more of them use more of a cache
// line: 96 -> 576, 14x14, batch 16: 7 rows 0.87, 12: 0.93, 14: 0.93; contiguous input gradient 576
// -> 96: 0.88, 0.88, 0.85.
template <class S, int NV, Last kLast, bool kDepthIsContiguous>
constexpr int kRows = [] {
  if (kLanes<S> == 1) return NV <= 2 ? 4 : 2;
#if defined(__AVX512F__)
  if (kLast == Last::kShared) return NV == 1 ? 16 : NV == 2 ? 10 : 6;
  if (!kDepthIsContiguous && kLast == Last::kWhole && NV == 2) return 12;
  if (kDepthIsContiguous && kLast == Last::kWhole && NV == 4) return 6;  // see panel_pairs
  return NV == 1 ? 12 : NV == 2 ? 7 : NV == 3 ? 5 : 4;
#else
  return NV == 1 ? 8 : NV == 2 ? 6 : NV == 3 ? 4 : 3;
#endif
}();
static_assert(kRows<float, 2, Last::kWhole, true> == kTileRows);

// Down a deeper panel than this tiles are twice as tall: they load it half as often, and their
// bursts of stores are rarer. gemm_tile alone, pixels x depth -> columns, GFLOP/s of 7 / 14 rows:
// 196 x 96 -> 576: 159 / 171, 49 x 160 -> 960: 151 / 167, 196 x 256 -> 64: 168 / 186, 196 x 576 ->
// 96: 169 / 190 (one core of an Intel Xeon with AMX); for a Zen 5 see above, at 64 it would lose.
constexpr int64_t kDeep = 64;
template <class S, int NV, Last kLast, bool kDepthIsContiguous>
constexpr int kDeepRows = [] {
  constexpr int kUsual = kRows<S, NV, kLast, kDepthIsContiguous>;
#if defined(__AVX512F__)
  if (kDepthIsContiguous && kLast == Last::kWhole && NV == 2) return 2 * kUsual;
#endif
  return kUsual;
}();

// With 16 registers g++ spills accumulators for what it loads ahead of a second step.
template <class S>
constexpr bool kStepsInTwos = kLanes<S> * sizeof(S) != 32;

// A store under a mask, even a full one, keeps a processor from writing a line it has not read.
template <class S>
FASTCONV_INLINE void put(S* to, vec_t<S> value, int64_t lanes, bool streams) {
  if (lanes != kLanes<S>) return store_partial(to, value, lanes);
  streams ? stream(to, value) : store(to, value);
}

// `count` tiles of MR rows, one below the other. Where it is shared, the last vector of an even row
// carries the last columns of that row in its low half, those of the next row in its high half.
template <class S, int MR, int NV, Last kLast, bool kDepthIsContiguous>
void tiles(GemmTile<S> t, int64_t count) {
  using V = vec_t<S>;
  constexpr int L = V::kLanes;
  constexpr int kPointers = (MR + kRowsAPointer - 1) / kRowsAPointer;
  constexpr bool kShared = kLast == Last::kShared;
  // Lanes of the last vector in use.
  const int64_t last = kLast == Last::kWhole ? L : t.columns - (NV - 1) * L;
  const auto load_last = [&](const S* p) __attribute__((always_inline)) {
    if constexpr (kShared) {
      return load_twice(p, last);
    } else if constexpr (kLast == Last::kPart) {
      return load_partial(p, last);
    } else {
      return load(p);
    }
  };
  const int64_t a_row = kDepthIsContiguous ? t.a_row : 1;
  const int64_t a_depth = kDepthIsContiguous ? 1 : t.a_depth;
  const int64_t half = NV == 4 && t.b_half > 0 ? t.b_half : 2 * L;
  const int64_t block = t.depth_block > 0 ? t.depth_block : t.depth;
  const bool columns_have_bias = t.bias != nullptr && !t.bias_is_per_row;
  const bool rows_have_bias = t.bias != nullptr && t.bias_is_per_row;
  const V low = V::set1(t.low), high = V::set1(t.high);

  for (int64_t fetched = 0; count > 0; --count, ++fetched) {
    V acc[MR][NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      V start = V::set1(0);
      if (columns_have_bias) start = j + 1 < NV ? load(t.bias + j * L) : load_last(t.bias + j * L);
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) acc[i][j] = start;
    }
    if (rows_have_bias) {
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) {
        const V start = V::set1(t.bias[i]);
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) acc[i][j] = start;
        if constexpr (kShared) {
          if (i % 2 == 1) acc[i - 1][NV - 1] = halves(acc[i - 1][NV - 1], start);
        }
      }
    }

    const S* a[kPointers];
    for (int i = 0; i < kPointers; ++i) {
      a[i] = t.a + i * kRowsAPointer * a_row;
      forget_origin(a[i]);
    }
    const S* b = t.b;
    const auto advance = [&](int64_t elements) __attribute__((always_inline)) {
      for (int i = 0; i < kPointers; ++i) {
        a[i] += elements;
        forget_origin(a[i]);
      }
    };
    const auto step = [&](int64_t u) __attribute__((always_inline)) {
      V row[NV];
      for (int j = 0; j + 1 < NV; ++j) row[j] = load(b + j / 2 * half + j % 2 * L);
      row[NV - 1] = load_last(b + (NV - 1) / 2 * half + (NV - 1) % 2 * L);
      b += t.b_row;
      V above = row[0];
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) {
        const S* p = a[i / kRowsAPointer] + (i % kRowsAPointer) * a_row + u * a_depth;
        const V x = V::set1(*p);
#pragma GCC unroll 4
        for (int j = 0; j + 1 < NV + !kShared; ++j) acc[i][j] = fma(x, row[j], acc[i][j]);
        if constexpr (kShared) {
          V& both = acc[i / 2 * 2][NV - 1];
          if (i % 2 == 1) both = fma(halves(above, x), row[NV - 1], both);
          if (i % 2 == 0 && i + 1 == MR) both = fma(x, row[NV - 1], both);
          above = x;
        }
      }
    };
    // The even rows of a column of cache lines, then the odd ones, then the next column; tall or
    // wide tiles, which are fewer, fetch even and odd rows at once.
    constexpr int kPasses = NV == 4 || MR > kRows<S, NV, kLast, kDepthIsContiguous> ? 1 : 2;
    const bool fetches = t.next_b != nullptr && fetched < kPasses * NV;
    const int64_t column = fetched / kPasses;
    const int64_t place = column / 2 * half + column % 2 * L + fetched % kPasses * t.b_row;
    const S* next = fetches ? t.next_b + place : t.b;
    int64_t next_row = fetches ? t.b_row : 0;
    if (t.next_end != nullptr) {
      const bool is_left = t.next_b < t.next_end;
      next = is_left ? t.next_b : t.b, next_row = is_left ? (NV == 4 ? L : L / 2) : 0;
      t.next_b += fetched_by_tile(t);
    }
    for (int64_t left = t.depth; left > 0; left -= block) {
      int64_t k = min_of(left, block);
      for (; kStepsInTwos<S> && k >= 2; k -= 2) {
        step(0), step(1);
        advance(2 * a_depth);
        __builtin_prefetch(next, 0, 2);
        if (kPasses == 1) __builtin_prefetch(next + next_row, 0, 2);
        next += 2 * next_row;
      }
      for (; k > 0; --k) {
        step(0);
        advance(a_depth);
      }
      advance(t.a_block - block * a_depth);
    }

    if (kLast == Last::kWhole && t.residual == nullptr && !t.streams) {  // most tiles
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) {
          store(t.c + i * t.c_row + j * L, min(high, max(low, acc[i][j])));
        }
      }
    } else {
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) {
        S* c = t.c + i * t.c_row;
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) {
          V z = acc[i][j];
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
    if (rows_have_bias) t.bias += MR;
  }
}

template <class S, int NV, Last kLast, bool kDepthIsContiguous, int... i>
void choose_rows(const GemmTile<S>& t, std::integer_sequence<int, i...>) {
  using Function = void (*)(GemmTile<S>, int64_t);
  static constexpr Function kInstances[] = {tiles<S, i + 1, NV, kLast, kDepthIsContiguous>...};
  const int64_t most = t.depth > kDeep ? kDeepRows<S, NV, kLast, kDepthIsContiguous>
                                       : kRows<S, NV, kLast, kDepthIsContiguous>;
  // Tiles that differ by one row at most, the taller ones first.
  const int64_t count = div_up(t.rows, most), rows = t.rows / count;
  const int64_t taller = t.rows % count;
  GemmTile<S> part = t;
  if (taller > 0) {
    kInstances[rows](t, taller);
    const int64_t first = taller * (rows + 1);
    part.a += first * t.a_row, part.c += first * t.c_row;
    if (t.next_end != nullptr) part.next_b += taller * fetched_by_tile(t);
    if (t.residual != nullptr) part.residual += first * t.residual_row;
    if (t.bias != nullptr && t.bias_is_per_row) part.bias += first;
  }
  kInstances[rows - 1](part, count - taller);
}

template <class S, int NV, bool kDepthIsContiguous>
void choose_last(const GemmTile<S>& t) {
  const auto with = [&](auto last) {
    constexpr auto kIndices =
        std::make_integer_sequence<int, kDeepRows<S, NV, last, kDepthIsContiguous>>{};
    choose_rows<S, NV, last, kDepthIsContiguous>(t, kIndices);
  };
  const int64_t lanes = t.columns - (NV - 1) * kLanes<S>;
  if (lanes == kLanes<S>) return with(std::integral_constant<Last, Last::kWhole>{});
  if constexpr (kCanShare<S> && NV <= 3) {
    if (lanes <= kLanes<S> / 2) return with(std::integral_constant<Last, Last::kShared>{});
  }
  if constexpr (kLanes<S> > 1) with(std::integral_constant<Last, Last::kPart>{});
}

template <class S, bool kDepthIsContiguous>
void choose_columns(const GemmTile<S>& t) {
  const int64_t vectors = div_up<int64_t>(t.columns, kLanes<S>);
  if (vectors <= 1) return choose_last<S, 1, kDepthIsContiguous>(t);
  if (vectors == 2) return choose_last<S, 2, kDepthIsContiguous>(t);
  if (vectors == 3) return choose_last<S, 3, kDepthIsContiguous>(t);
  choose_last<S, 4, kDepthIsContiguous>(t);
}

template <class S>
FASTCONV_INLINE void choose(const GemmTile<S>& t) {
  return t.a_depth == 1 ? choose_columns<S, true>(t) : choose_columns<S, false>(t);
}

}  // namespace

void gemm_tile(const GemmTile<float>& t) {
  choose(t);
}

void gemm_tile(const GemmTile<double>& t) {
  choose(t);
}

}  // namespace fastconv::FASTCONV_ISA
