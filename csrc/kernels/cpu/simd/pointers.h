// Addresses of register tiles.
#pragma once

#include "simd.h"

namespace fastconv::FASTCONV_ISA {

// Rows of a tile's input are reached from one pointer for every three of them plus a stride, the
// widest reach of an x86 address (base, base + stride, base + 2 * stride): a pointer a row would
// spill.
constexpr int kRowsAPointer = 3;

// Keeps a pointer in its own register: g++ would rebuild it from its neighbours at every use, or
// keep one for each row of the output in memory.
template <class P>
FASTCONV_INLINE void forget_origin(P& pointer) {
  asm("" : "+r"(pointer));
}

}  // namespace fastconv::FASTCONV_ISA
