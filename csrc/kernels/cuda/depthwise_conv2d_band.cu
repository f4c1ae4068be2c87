#include "depthwise_conv2d_band.cuh"

#include "table.cuh"

namespace fastconv::cuda {

#define FASTCONV_BANDS_OF(dtype, layout, blocks)                          \
  FASTCONV_INSTANCE(depthwise_conv2d_band, dtype, layout, blocks, 1),     \
      FASTCONV_INSTANCE(depthwise_conv2d_band, dtype, layout, blocks, 2), \
      FASTCONV_INSTANCE(depthwise_conv2d_band, dtype, layout, blocks, 4)
#define FASTCONV_BANDS_IN(dtype, layout)                                    \
  FASTCONV_BANDS_OF(dtype, layout, 2), FASTCONV_BANDS_OF(dtype, layout, 3), \
      FASTCONV_BANDS_OF(dtype, layout, 4), FASTCONV_BANDS_OF(dtype, layout, 5)
#define FASTCONV_BANDS(dtype) FASTCONV_BANDS_IN(dtype, 0), FASTCONV_BANDS_IN(dtype, 1)

// The gates on the compiler's output look at the ends where all would take a minute.
#if defined(FASTCONV_ONLY_ENDS)
#define FASTCONV_ENDS(dtype)                                                                      \
  FASTCONV_BANDS_OF(dtype, 0, 2), FASTCONV_BANDS_OF(dtype, 1, 2), FASTCONV_BANDS_OF(dtype, 0, 5), \
      FASTCONV_BANDS_OF(dtype, 1, 5)
FASTCONV_DEFINE_TABLE(depthwise_conv2d_band, FASTCONV_ENDS(2), FASTCONV_ENDS(3))
#else
FASTCONV_DEFINE_TABLE(depthwise_conv2d_band, FASTCONV_BANDS(2), FASTCONV_BANDS(3))
#endif

}  // namespace fastconv::cuda
