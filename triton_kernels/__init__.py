"""Triton kernels for CUDA tensors: one file an op, under the op's name, in one fixed order.

settings    tile sizes and warps, each with the measurement or the arithmetic that chose it; of most
            kernels a dataclass: its default, and what else a search tries (_settings.py)
forward     the kernels, pointers and sizes only
backward    likewise
launcher    a function with the arguments of torch.ops.fastconv.<op>; what it cannot do is told,
            without Triton, by fastconv/dispatch/triton_limits.py

`residual_add.py` is the template. `_language.py` holds the device functions that kernels share,
`_kernel.py` what launchers share; `_tuned.py` says which settings a call takes, and `search.py`
finds faster ones on a GPU. Every tensor is float32, float16 or bfloat16 and every sum
float32, never tf32; an offset that grows with the batch is an int64. A checkout reaches this folder
as fastconv.triton_kernels through a link in fastconv/.

Importing this package imports Triton; fastconv.dispatch does so once a CUDA tensor asks.
"""

from fastconv.triton_kernels import (
    activation_backward,
    depthwise_conv2d,
    depthwise_conv2d_backward,
    depthwise_conv2d_backward_weight,
    inverted_residual,
    local_response_norm,
    pointwise_conv2d,
    pointwise_conv2d_backward,
    residual_add,
    separable_conv2d,
)
from fastconv.triton_kernels._kernel import KERNELS, Kernel, Launch

__all__ = [
    "KERNELS",
    "Kernel",
    "Launch",
    "activation_backward",
    "depthwise_conv2d",
    "depthwise_conv2d_backward",
    "depthwise_conv2d_backward_weight",
    "inverted_residual",
    "local_response_norm",
    "pointwise_conv2d",
    "pointwise_conv2d_backward",
    "residual_add",
    "separable_conv2d",
]
