#include "inverted_residual.cuh"

#include "table.cuh"

namespace fastconv::cuda {

#define OF_WINDOW(dtype, kernel, stride)                                 \
  FASTCONV_INSTANCE(inverted_residual_fused, dtype, kernel, stride, 32), \
      FASTCONV_INSTANCE(inverted_residual_fused, dtype, kernel, stride, 128)
#define OF_DTYPE(dtype) OF_WINDOW(dtype, 0, 0), OF_WINDOW(dtype, 3, 1), OF_WINDOW(dtype, 3, 2)

#if defined(FASTCONV_EMULATED)  // has some that are only compiled at run time
#define FASTCONV_EMULATED_ONLY                                           \
  , FASTCONV_INSTANCE(inverted_residual_fused, 2, 3, 1, 32, 24, 72, 24), \
      FASTCONV_INSTANCE(inverted_residual_fused, 2, 5, 2, 64, 16, 40, 64)
#else
#define FASTCONV_EMULATED_ONLY
#endif

FASTCONV_DEFINE_TABLE(inverted_residual, OF_DTYPE(2), OF_DTYPE(3) FASTCONV_EMULATED_ONLY)

}  // namespace fastconv::cuda
