#include "activation_backward.cuh"

#include "table.cuh"

namespace fastconv::cuda {

FASTCONV_DEFINE_TABLE(activation_backward, FASTCONV_PACK_INSTANCES(activation_backward_elementwise),
                      FASTCONV_PACK_INSTANCES(activation_backward_from_mask))

}  // namespace fastconv::cuda
