// The derivative of an activation times the gradient, element by element.
#include "../activation_backward.h"

#include "registry.h"
#include "simd/simd.h"

namespace fastconv::FASTCONV_ISA {
namespace {

template <class T, class Act>
void run(const ActivationBackwardParams& p, int64_t first, int64_t last) {
  const T* grad_output = static_cast<const T*>(p.grad_output);
  const T* z = static_cast<const T*>(p.z);
  T* grad_input = static_cast<T*>(p.grad_input);
  constexpr int L = kLanes<T>;
  int64_t i = first;
  for (; i + L <= last; i += L) {
    store(grad_input + i, Act::backward(load(grad_output + i), load(z + i)));
  }
  if (const int64_t n = last - i) {
    const auto grad = Act::backward(load_partial(grad_output + i, n), load_partial(z + i, n));
    store_partial(grad_input + i, grad, n);
  }
}

void forward(const ActivationBackwardParams& p, int64_t begin, int64_t end) {
  const int64_t first = begin * kActivationBackwardBlock;
  const int64_t last = min_of(end * kActivationBackwardBlock, p.elements);
  dispatch_dtype(p.dtype, [&](auto element) {
    dispatch_activation(p.activation,
                        [&](auto act) { run<decltype(element), decltype(act)>(p, first, last); });
  });
}

}  // namespace

const ActivationBackwardKernels activation_backward_kernels = {forward};

}  // namespace fastconv::FASTCONV_ISA
