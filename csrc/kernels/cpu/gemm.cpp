// The tile in registers, one instance for each number of rows and vectors.
#include "gemm.h"

#include <utility>

namespace fastconv::FASTCONV_ISA {
namespace {

// Rows of a are reached from one pointer for every three of them plus a stride, the widest reach
// of an x86 address (base, base + stride, base + 2 * stride): a pointer a row would spill.
constexpr int kRowsAPointer = 3;

// Rows of b fetched ahead. They lie a stride apart, mostly on pages of their own, where the
// processor's own prefetch does not follow: weights from L3 went from 393 to 451 GFLOP/s
// (320 -> 1280, 49 pixels, 2 threads, Zen 5), weights in L1 or L2 from 448 to 464.
constexpr int64_t kPrefetchRows = 16;

// Keeps a pointer in its own register: g++ would rebuild it from its neighbours at every use.
template <class S>
FASTCONV_INLINE void forget_origin(const S*& pointer) {
  asm("" : "+r"(pointer));
}

// A store under a mask, even a full one, keeps a processor from writing a line it has not read.
template <class S>
FASTCONV_INLINE void put(S* to, vec_t<S> value, int64_t lanes, bool streams) {
  if (lanes != kLanes<S>) return store_partial(to, value, lanes);
  streams ? stream(to, value) : store(to, value);
}

template <class S, int MR, int NV, bool kDepthIsContiguous>
void tile(const GemmTile<S>& t) {
  using V = vec_t<S>;
  constexpr int L = V::kLanes;
  constexpr int kPointers = (MR + kRowsAPointer - 1) / kRowsAPointer;
  const int64_t last = t.columns - (NV - 1) * L;  // lanes of the last vector in use

  V acc[MR][NV];
  V start[NV];  // the bias where it is one value a column
  for (int j = 0; j < NV; ++j) start[j] = V::set1(0);
  if (t.bias != nullptr && !t.bias_is_per_row) {
    for (int j = 0; j + 1 < NV; ++j) start[j] = load(t.bias + j * L);
    start[NV - 1] = load_partial(t.bias + (NV - 1) * L, last);
  }
  const bool rows_have_bias = t.bias != nullptr && t.bias_is_per_row;
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) acc[i][j] = start[j];
  }
  if (rows_have_bias) {
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) acc[i][j] = V::set1(t.bias[i]);
    }
  }

  const int64_t a_row = kDepthIsContiguous ? t.a_row : 1;
  const int64_t a_depth = kDepthIsContiguous ? 1 : t.a_depth;
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
    for (int j = 0; j < NV; ++j) __builtin_prefetch(b + kPrefetchRows * t.b_row + j * L);
    for (int j = 0; j + 1 < NV; ++j) row[j] = load(b + j * L);
    row[NV - 1] = load_partial(b + (NV - 1) * L, last);
    b += t.b_row;
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const S* p = a[i / kRowsAPointer] + (i % kRowsAPointer) * a_row + u * a_depth;
      const V x = V::set1(*p);
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) acc[i][j] = fma(x, row[j], acc[i][j]);
    }
  };
  const int64_t block = t.depth_block > 0 ? t.depth_block : t.depth;
  for (int64_t left = t.depth; left > 0; left -= block) {
    int64_t k = min_of(left, block);
    for (; k >= 4; k -= 4) {
      step(0), step(1), step(2), step(3);
      advance(4 * a_depth);
    }
    for (; k > 0; --k) {
      step(0);
      advance(a_depth);
    }
    advance(t.a_block - block * a_depth);
  }

  const V low = V::set1(t.low), high = V::set1(t.high);
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
    S* c = t.c + i * t.c_row;
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      V z = acc[i][j];
      const int64_t lanes = j + 1 < NV ? L : last;
      if (t.residual != nullptr) {
        z = z + load_partial(t.residual + i * t.residual_row + j * L, lanes);
      }
      put(c + j * L, min(high, max(low, z)), lanes, t.streams);
    }
  }
}

template <class S, int NV, bool kDepthIsContiguous, int... i>
void choose_rows(const GemmTile<S>& t, std::integer_sequence<int, i...>) {
  using Function = void (*)(const GemmTile<S>&);
  static constexpr Function kInstances[] = {tile<S, i + 1, NV, kDepthIsContiguous>...};
  kInstances[t.rows - 1](t);
}

template <class S, bool kDepthIsContiguous>
void choose_columns(const GemmTile<S>& t) {
  constexpr int L = kLanes<S>;
  constexpr auto kRows = std::make_integer_sequence<int, kTileRows>{};
  if (t.columns <= L) return choose_rows<S, 1, kDepthIsContiguous>(t, kRows);
  if (t.columns <= 2 * L) return choose_rows<S, 2, kDepthIsContiguous>(t, kRows);
  constexpr auto kWideRows = std::make_integer_sequence<int, kWideTileRows>{};
  const int64_t parts = div_up<int64_t>(t.rows, kWideTileRows);
  GemmTile<S> part = t;
  for (int64_t i = 0, first = 0; i < parts; ++i, first += part.rows) {
    part.rows = (t.rows - first) / (parts - i);
    part.a = t.a + first * t.a_row;
    part.c = t.c + first * t.c_row;
    if (t.residual != nullptr) part.residual = t.residual + first * t.residual_row;
    if (t.bias != nullptr && t.bias_is_per_row) part.bias = t.bias + first;
    choose_rows<S, 3, kDepthIsContiguous>(part, kWideRows);
  }
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
