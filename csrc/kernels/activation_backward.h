// grad_input = grad_output * activation'(z), shared by the backward passes of all fused ops.
#pragma once

#include "common/activation.h"
#include "common/types.h"
#include "variants.h"

namespace fastconv {

struct ActivationBackwardParams {
  const void* grad_output;  // (elements)
  const void* z;        // (elements) pre-activation; for ReLU and ReLU6 the output serves as well
  const uint8_t* mask;  // or in its place, on a GPU, a bit an element: where the gradient passes
  void* grad_input;     // (elements)

  int64_t elements;
  DType dtype;
  Activation activation;
};

constexpr int64_t kActivationBackwardBlock = 8192;  // elements a unit, as in residual_add.h

// Bytes of a mask: bit i % 8 of byte i / 8 is of element i, in the order of memory. Whole blocks of
// 8192 elements, which every kernel's blocks divide; the bits beyond the elements are zeros.
FASTCONV_INLINE int64_t mask_bytes(int64_t elements) {
  return div_up<int64_t>(elements, 8192) * 1024;
}

FASTCONV_INLINE int64_t activation_backward_units(const ActivationBackwardParams& p) {
  return div_up(p.elements, kActivationBackwardBlock);
}

struct ActivationBackwardKernels {
  void (*forward)(const ActivationBackwardParams&, int64_t begin, int64_t end);
};

}  // namespace fastconv
