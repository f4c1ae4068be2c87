#include "../activation_backward.h"
#include "plan.h"
#include "residual_add.h"

namespace fastconv::cuda {

Launch plan(const ResidualAddParams& p, const Device& device) {
  const int64_t elements = p.batch * p.channels * p.height * p.width;
  Launch launch{};
  launch.threads = kAddThreads;
  if (residual_add_variant(p) != Variant::residual_add_same_size) {
    launch.kernel = Kernel::residual_add_shortcut;
    launch.blocks = div_up<int64_t>(elements, kAddThreads);
    return with_arguments(launch, p.dtype, known(p.channels, device),
                          known(p.residual_channels, device));
  }
  const int width = pack_width(p.dtype, p.input, p.residual, p.output);
  launch.kernel =
      p.mask ? Kernel::residual_add_same_size_with_mask : Kernel::residual_add_same_size;
  launch.blocks = div_up<int64_t>(p.mask ? 8 * mask_bytes(elements) : elements,
                                  kAddThreads * kAddPacks * width);
  return with_arguments(launch, p.dtype, width);
}

}  // namespace fastconv::cuda
