"""The choice that `make bench-quick` times in four minutes or so, and `make bench-gate` watches.

Of each op and direction a shape that caches hold and one that they do not, each dtype once, and
what torch runs by a reference path. The layers are those of bench/shapes.
"""

from bench.cases import DTYPES, Case
from bench.shapes import Shape

DEPTHWISE = Shape("depthwise_conv2d", 144, 144, 56, 56, 3, 1)  # mobilenet_v2
# torch starts all threads for each channel of this in float16: few channels, or it takes seconds.
DEPTHWISE_FEW = Shape("depthwise_conv2d", 32, 32, 112, 112, 3, 1)
DEPTHWISE_STRIDED = Shape("depthwise_conv2d", 96, 96, 112, 112, 3, 2)
DEPTHWISE_5 = Shape("depthwise_conv2d", 672, 672, 14, 14, 5, 1)  # efficientnet_b0
DEPTHWISE_7 = Shape("depthwise_conv2d", 96, 96, 56, 56, 7, 1)  # convnext_t
POINTWISE_THIN = Shape("pointwise_conv2d", 24, 144, 56, 56, 1, 1)  # mobilenet_v2
POINTWISE = Shape("pointwise_conv2d", 64, 384, 14, 14, 1, 1)
POINTWISE_DEEP = Shape("pointwise_conv2d", 960, 160, 7, 7, 1, 1)
NORM = Shape("local_response_norm", 96, 96, 55, 55, 5, 1)  # alexnet_lrn
ADD = Shape("residual_add", 256, 256, 56, 56, 1, 1)  # resnet50
BLOCK = Shape("inverted_residual", 32, 32, 28, 28, 3, 1, 192)  # mobilenet_v2
STEM = Shape("stem_conv2d", 3, 32, 224, 224, 3, 2)
MAX_POOL = Shape("max_pool2d", 64, 64, 112, 112, 3, 2)  # resnet50
AVERAGE_POOL = Shape("global_avg_pool2d", 1280, 1280, 7, 7, 1, 1)  # mobilenet_v2
BATCH_NORM = Shape("batch_norm", 144, 144, 56, 56, 1, 1)

QUICK = [
    Case(layer, batch, DTYPES[dtype], direction)
    for layer, batch, dtype, direction in (
        (DEPTHWISE, 1, "float32", "forward"),
        (DEPTHWISE, 16, "float32", "forward"),
        (DEPTHWISE, 16, "bfloat16", "forward"),
        (DEPTHWISE_5, 1, "float32", "forward"),
        (DEPTHWISE_STRIDED, 16, "float32", "grad_input"),
        (DEPTHWISE_5, 16, "float32", "grad_weight"),
        (DEPTHWISE_7, 1, "float32", "grad_weight"),
        (DEPTHWISE_FEW, 1, "float16", "grad_weight"),
        (POINTWISE_THIN, 1, "float32", "forward"),
        (POINTWISE_THIN, 16, "bfloat16", "forward"),
        (POINTWISE, 1, "float32", "forward"),
        (POINTWISE_DEEP, 16, "float32", "forward"),
        (POINTWISE, 16, "float32", "grad_input"),
        (POINTWISE, 16, "float32", "grad_weight"),
        (NORM, 16, "float32", "forward"),
        (NORM, 16, "float32", "grad_input"),
        (ADD, 16, "float32", "forward"),
        (BLOCK, 1, "float32", "forward"),
        (BLOCK, 16, "float32", "forward"),
        (STEM, 1, "float32", "forward"),
        (STEM, 16, "float32", "forward"),
        (MAX_POOL, 16, "float32", "forward"),
        (AVERAGE_POOL, 16, "float32", "forward"),
        (AVERAGE_POOL, 16, "float32", "grad_input"),
        (BATCH_NORM, 16, "float32", "training"),
        (BATCH_NORM, 16, "float32", "grad_input"),
    )
]
