// Sizes that a kernel compiled for its very call has as template arguments, so that divisions by
// them, borders of tiles and pitches become constants. Elsewhere the arguments are 0, and the
// kernel takes the sizes of its parameters.
#pragma once

#include "../common/types.h"
#include "launch.h"

namespace fastconv::cuda {

// The template's argument for a size.
inline int known(int64_t size, const Device& device) {
  return device.compiles && size < int64_t{1} << 31 ? int(size) : 0;
}

// The parameters as they are, or a copy to which set(copy) has given the known sizes.
template <bool all_known, class Params, class Set>
FASTCONV_INLINE decltype(auto) with_known(const Params& p, const Set& set) {
  if constexpr (all_known) {
    Params copy = p;
    set(copy);
    return copy;
  } else {
    return (p);
  }
}

}  // namespace fastconv::cuda
