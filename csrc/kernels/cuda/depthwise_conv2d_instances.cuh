// The tile kernels of a layout that are compiled ahead of time.
#pragma once

#include "table.cuh"

#define FASTCONV_DEPTHWISE_TILE(layout, dtype, kernel)                              \
  FASTCONV_INSTANCE(depthwise_conv2d_##layout##_tile, dtype, kernel, 1, -1),        \
      FASTCONV_INSTANCE(depthwise_conv2d_##layout##_tile, dtype, kernel, 2, -1),    \
      FASTCONV_INSTANCE(depthwise_conv2d_##layout##_tile, dtype, kernel, 2, 0),     \
      FASTCONV_INSTANCE(depthwise_conv2d_##layout##_tile, dtype, kernel, 2, 1),     \
      FASTCONV_INSTANCE(depthwise_conv2d_weight_##layout##_tile, dtype, kernel, 1), \
      FASTCONV_INSTANCE(depthwise_conv2d_weight_##layout##_tile, dtype, kernel, 2)
#define FASTCONV_DEPTHWISE_GRADIENTS(layout, dtype, kernel) \
  FASTCONV_INSTANCE(depthwise_conv2d_gradients_##layout##_tile, dtype, kernel)
// The gates on the compiler's output look at the ends where they look at few.
#if defined(FASTCONV_ONLY_ENDS)
#define FASTCONV_DEPTHWISE_TILES_OF(layout, dtype)                                      \
  FASTCONV_DEPTHWISE_TILE(layout, dtype, 3), FASTCONV_DEPTHWISE_TILE(layout, dtype, 7), \
      FASTCONV_DEPTHWISE_GRADIENTS(layout, dtype, 5)
#else
#define FASTCONV_DEPTHWISE_TILES_OF(layout, dtype)                                               \
  FASTCONV_DEPTHWISE_TILE(layout, dtype, 3), FASTCONV_DEPTHWISE_TILE(layout, dtype, 5),          \
      FASTCONV_DEPTHWISE_TILE(layout, dtype, 7), FASTCONV_DEPTHWISE_GRADIENTS(layout, dtype, 3), \
      FASTCONV_DEPTHWISE_GRADIENTS(layout, dtype, 5)
#endif

#define FASTCONV_DEPTHWISE_TILES(layout)                                          \
  FASTCONV_DEPTHWISE_TILES_OF(layout, 0), FASTCONV_DEPTHWISE_TILES_OF(layout, 2), \
      FASTCONV_DEPTHWISE_TILES_OF(layout, 3)
