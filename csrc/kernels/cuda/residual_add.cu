#include "residual_add.cuh"

#include "table.cuh"

namespace fastconv::cuda {

#if defined(FASTCONV_EMULATED)  // has some that are only compiled at run time
#define FASTCONV_EMULATED_ONLY , FASTCONV_INSTANCE(residual_add_shortcut, 0, 40, 24)
#else
#define FASTCONV_EMULATED_ONLY
#endif

FASTCONV_DEFINE_TABLE(residual_add, FASTCONV_PACK_INSTANCES(residual_add_same_size),
                      FASTCONV_PACK_INSTANCES(residual_add_same_size_with_mask),
                      FASTCONV_INSTANCE(residual_add_shortcut, 0),
                      FASTCONV_INSTANCE(residual_add_shortcut, 1),
                      FASTCONV_INSTANCE(residual_add_shortcut, 2),
                      FASTCONV_INSTANCE(residual_add_shortcut, 3) FASTCONV_EMULATED_ONLY)

}  // namespace fastconv::cuda
