// Division by a number that is known before the launch: a multiplication instead of some 20
// instructions.
#pragma once

#include "../common/types.h"

namespace fastconv::cuda {

// For dividends below 2^31, divisors from 1 to 2^31 - 1.
struct Divider {
  uint32_t divisor, factor, shift;

  FASTCONV_INLINE uint32_t quotient(uint32_t dividend) const {
    return (uint32_t((uint64_t(dividend) * factor) >> 32) + dividend) >> shift;
  }
};

// 2^32 + factor is 2^(32 + shift) / divisor, rounded up (Granlund and Montgomery, "Division by
// invariant integers using multiplication", 1994).
FASTCONV_INLINE constexpr Divider make_divider(int64_t divisor) {
  uint32_t shift = 0;
  while ((int64_t{1} << shift) < divisor) ++shift;
  const uint64_t above = (uint64_t{1} << shift) - uint64_t(divisor);
  return {uint32_t(divisor), uint32_t((above << 32) / uint64_t(divisor) + 1), shift};
}

// The index of a block or thread taken apart, its fastest part first.
FASTCONV_INLINE uint32_t take(uint32_t& index, const Divider& by) {
  const uint32_t quotient = by.quotient(index);
  const uint32_t remainder = index - quotient * by.divisor;
  index = quotient;
  return remainder;
}

}  // namespace fastconv::cuda
