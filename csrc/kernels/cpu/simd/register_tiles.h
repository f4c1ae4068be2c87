// What the register tiles of fused blocks have in common.
#pragma once

#include "pointers.h"

namespace fastconv::FASTCONV_ISA {

// Pointers to the rows of a tile, `row` elements apart, that move on together.
template <int MR, class S>
struct RowPointers {
  static constexpr int kCount = (MR + kRowsAPointer - 1) / kRowsAPointer;
  const S* at[kCount];
  int64_t row;

  FASTCONV_INLINE RowPointers(const S* first, int64_t row) : row(row) {
    at[0] = first;
    forget_origin(at[0]);
#pragma GCC unroll 8
    for (int i = 1; i < kCount; ++i) {
      at[i] = at[i - 1] + kRowsAPointer * row;
      forget_origin(at[i]);
    }
  }

  FASTCONV_INLINE const S* operator[](int i) const {
    return at[i / kRowsAPointer] + (i % kRowsAPointer) * row;
  }

  FASTCONV_INLINE void advance(int64_t elements) {
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) {
      at[i] += elements;
      forget_origin(at[i]);
    }
  }
};

// Cuts rows into tiles that differ by one at most, the taller ones first: run(rows of a tile, first
// row, how many such tiles).
template <class Run>
FASTCONV_INLINE void even_tiles(int64_t rows, int64_t most, const Run& run) {
  const int64_t count = div_up(rows, most), less = rows / count, taller = rows % count;
  if (taller > 0) run(less + 1, int64_t{0}, taller);
  run(less, taller * (less + 1), count - taller);
}

#if defined(__AVX512F__)
// sum += x * w where sum lies: g++ has a sum move to the register of a factor that is not wanted
// any more, and spills what then lies badly.
FASTCONV_INLINE void accumulate(VecF& sum, VecF x, VecF w) {
  asm("vfmadd231ps %2, %1, %0" : "+v"(sum.v) : "v"(x.v), "v"(w.v));
}
#endif

// Loads what several fma take once: g++ would have each of them load it again.
template <class V>
FASTCONV_INLINE void keep_loaded([[maybe_unused]] V& vector) {
#if defined(__AVX512F__)
  asm("" : "+v"(vector.v));
#endif
}

}  // namespace fastconv::FASTCONV_ISA
