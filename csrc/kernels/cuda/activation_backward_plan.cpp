#include "activation_backward.h"
#include "plan.h"

namespace fastconv::cuda {

Launch plan(const ActivationBackwardParams& p, const Device&) {
  const void* z = p.mask ? p.grad_output : p.z;
  const int width = pack_width(p.dtype, p.grad_output, z, p.grad_input);
  Launch launch{};
  launch.kernel =
      p.mask ? Kernel::activation_backward_from_mask : Kernel::activation_backward_elementwise;
  launch.threads = kActivationThreads;
  launch.blocks = div_up<int64_t>(p.elements, kActivationThreads * width);
  return with_arguments(launch, p.dtype, width);
}

}  // namespace fastconv::cuda
