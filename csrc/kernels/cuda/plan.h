// What the plans of all ops share.
#pragma once

#include "../common/types.h"
#include "launch.h"

namespace fastconv::cuda {

// Elements of the widest access, 16 bytes, where all pointers allow it; else 1.
template <class... Pointers>
int pack_width(DType dtype, const Pointers*... pointers) {
  const bool aligned = ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
  return aligned ? int(16 / size_of(dtype)) : 1;
}

}  // namespace fastconv::cuda
