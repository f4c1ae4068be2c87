#include "local_response_norm.cuh"

#include "table.cuh"

namespace fastconv::cuda {

#define FASTCONV_WIDTHS(kernel, dtype, three_quarters)                  \
  FASTCONV_INSTANCE(kernel, dtype, 4, kNormWindow, three_quarters),     \
      FASTCONV_INSTANCE(kernel, dtype, 2, kNormWindow, three_quarters), \
      FASTCONV_INSTANCE(kernel, dtype, 1, kNormWindow, three_quarters)
#define FASTCONV_NCHW(kernel)                                                                  \
  FASTCONV_WIDTHS(kernel, 0, 0), FASTCONV_WIDTHS(kernel, 0, 1), FASTCONV_WIDTHS(kernel, 2, 0), \
      FASTCONV_WIDTHS(kernel, 2, 1), FASTCONV_WIDTHS(kernel, 3, 0), FASTCONV_WIDTHS(kernel, 3, 1)
#define FASTCONV_NHWC(kernel)                                                                     \
  FASTCONV_INSTANCE(kernel, 0, kNormWindow, 0), FASTCONV_INSTANCE(kernel, 0, kNormWindow, 1),     \
      FASTCONV_INSTANCE(kernel, 2, kNormWindow, 0), FASTCONV_INSTANCE(kernel, 2, kNormWindow, 1), \
      FASTCONV_INSTANCE(kernel, 3, kNormWindow, 0), FASTCONV_INSTANCE(kernel, 3, kNormWindow, 1)
#define FASTCONV_ANY(kernel)                                                                \
  FASTCONV_INSTANCE(kernel, 0), FASTCONV_INSTANCE(kernel, 1), FASTCONV_INSTANCE(kernel, 2), \
      FASTCONV_INSTANCE(kernel, 3)

#if defined(FASTCONV_EMULATED)  // has some that are only compiled at run time
#define FASTCONV_EMULATED_ONLY                                \
  , FASTCONV_INSTANCE(local_response_norm_nhwc, 0, 4, 1, 40), \
      FASTCONV_INSTANCE(local_response_norm_backward_nhwc, 0, 4, 1, 40)
#else
#define FASTCONV_EMULATED_ONLY
#endif

FASTCONV_DEFINE_TABLE(local_response_norm, FASTCONV_NCHW(local_response_norm_nchw),
                      FASTCONV_NCHW(local_response_norm_backward_nchw),
                      FASTCONV_NHWC(local_response_norm_nhwc),
                      FASTCONV_NHWC(local_response_norm_backward_nhwc),
                      FASTCONV_ANY(local_response_norm_any),
                      FASTCONV_ANY(local_response_norm_backward_any) FASTCONV_EMULATED_ONLY)

}  // namespace fastconv::cuda
