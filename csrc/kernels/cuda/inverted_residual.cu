#include "inverted_residual.cuh"

#include "table.cuh"

namespace fastconv::cuda {

#define OF_WINDOW(dtype, kernel, stride)                                 \
  FASTCONV_INSTANCE(inverted_residual_fused, dtype, kernel, stride, 32), \
      FASTCONV_INSTANCE(inverted_residual_fused, dtype, kernel, stride, 128)
#define OF_DTYPE(dtype) OF_WINDOW(dtype, 0, 0), OF_WINDOW(dtype, 3, 1), OF_WINDOW(dtype, 3, 2)

FASTCONV_DEFINE_TABLE(inverted_residual, OF_DTYPE(2), OF_DTYPE(3))

}  // namespace fastconv::cuda
