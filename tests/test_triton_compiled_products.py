"""What Triton makes of the kernels that multiply matrices, for GPUs that are not there.

Beside registers, spills and wide accesses: that the products are on the tensor cores of each
architecture, and the boxes of the descriptors copied by the hardware.
"""

from importlib.metadata import version
from typing import Any

import pytest
import torch

from fastconv.triton_kernels import KERNELS
from tests.compiled import compile_for, nchw, nhwc

F32 = torch.float32
PRODUCT = {80: r"HMMA\..*", 90: r"HGMMA\..*", 100: r"UTC\w*MMA.*"}
# The kernels without a product, and what a program of theirs may take.
SUMS = {"add_slabs_kernel": 48}
# Bytes on the stack: Triton 3.9 has sm_80 put four addresses there once, before the loop over taps.
STACK = {("separable_kernel", 80): 16}


def forward(x, outputs, residual=False, stride=(1, 1)):
    """Arguments of pointwise_conv2d for an input."""
    w = nchw(outputs, x.shape[1], 1, 1, dtype=x.dtype)
    r = x[:, :1].expand(-1, outputs, -1, -1).clone() if residual else None
    return x, w, nchw(outputs, dtype=x.dtype), r, stride, "relu6"


def backward(x, outputs):
    """Arguments of pointwise_conv2d_backward for an input."""
    grad = torch.empty_like(x[:, :1].expand(-1, outputs, -1, -1).contiguous())
    if x.is_contiguous(memory_format=torch.channels_last):
        grad = grad.contiguous(memory_format=torch.channels_last)
    return grad, x, nchw(outputs, x.shape[1], 1, 1, dtype=x.dtype), (1, 1), (True, True, True)


def separable(x, outputs, k):
    """Arguments of separable_conv2d for an input."""
    c = x.shape[1]
    weights = (nchw(c, 1, k, k, dtype=x.dtype), nchw(c, dtype=x.dtype))
    weights += (nchw(outputs, c, 1, 1, dtype=x.dtype), nchw(outputs, dtype=x.dtype))
    window = ((1, 1), (k // 2,) * 4, (1, 1))
    return x, *weights, None, *(None,) * 4, *window, "relu6", None


def inverted(x, hidden, outputs):
    """Arguments of inverted_residual for an input."""
    c, dtype = x.shape[1], x.dtype
    weights = (nchw(hidden, c, 1, 1, dtype=dtype), nchw(hidden, dtype=dtype))
    weights += (nchw(hidden, 1, 3, 3, dtype=dtype), nchw(hidden, dtype=dtype))
    weights += (nchw(outputs, hidden, 1, 1, dtype=dtype), nchw(outputs, dtype=dtype))
    return x, *weights, *(None,) * 4, (2, 2), (1,) * 4, "relu6", False


# Triton 3.6 takes 226 for sm_80, which runs as many blocks at once.
INVERTED = 232 if version("triton").startswith("3.6.") else 200

# The op and its arguments; its first kernel on each architecture that is tried; the registers a
# thread that its kernels may take; the accesses of 16 bytes from and to global memory in each.
PANEL, TILE, BOXES = "panel_kernel", "tile_kernel", "descriptor_kernel"
CALLS: dict[str, tuple[str, tuple[Any, ...], dict[int, str], int, int, int]] = {
    "expansion": (
        "pointwise_conv2d",
        forward(nhwc(128, 24, 56, 56), 144),
        *({80: PANEL, 90: PANEL, 100: PANEL}, 144, 8, 8),
    ),
    "projection, nchw": (
        "pointwise_conv2d",
        forward(nchw(128, 144, 56, 56), 24, residual=True),
        *({90: TILE}, 128, 16, 4),
    ),
    "matrix bound": (
        "pointwise_conv2d",
        forward(nhwc(128, 384, 14, 14), 1536),
        *({80: TILE, 90: BOXES, 100: BOXES}, 192, 16, 8),
    ),
    "stride": (
        "pointwise_conv2d",
        forward(nhwc(128, 256, 56, 56), 512, stride=(2, 2)),
        *({80: TILE}, 192, 16, 8),
    ),
    "float32": (
        "pointwise_conv2d",
        forward(nhwc(128, 144, 56, 56, dtype=F32), 144),
        *({80: TILE, 90: TILE}, 160, 8, 8),
    ),
    "separable": (
        "separable_conv2d",
        separable(nhwc(128, 144, 56, 56), 24, 3),
        *({80: "separable_kernel", 90: "separable_kernel"}, 136, 14, 2),
    ),
    "separable, 5x5, float32": (
        "separable_conv2d",
        separable(nhwc(128, 240, 28, 28, dtype=F32), 40, 5),
        *({80: "separable_kernel"}, 112, 14, 4),
    ),
    "inverted residual": (
        "inverted_residual",
        inverted(nhwc(128, 16, 112, 112), 96, 24),
        *({80: "inverted_residual_kernel", 90: "inverted_residual_kernel"}, INVERTED, 12, 2),
    ),
    "backward": (
        "pointwise_conv2d_backward",
        backward(nhwc(128, 24, 56, 56), 144),
        *({80: TILE, 90: BOXES, 100: BOXES}, 128, 16, 4),
    ),
    "backward, planes of 7x7": (
        "pointwise_conv2d_backward",
        backward(nchw(128, 160, 7, 7), 960),
        *({80: TILE}, 232, 0, 0),
    ),
    "backward, float32": (
        "pointwise_conv2d_backward",
        backward(nchw(128, 24, 56, 56, dtype=F32), 144),
        *({80: TILE, 90: TILE}, 224, 8, 4),
    ),
}


TRIED = [(call, architecture) for call in CALLS for architecture in CALLS[call][2]]


@pytest.mark.parametrize(("call", "architecture"), TRIED)
def test_registers_spills_wide_accesses_and_tensor_cores(call, architecture):
    op, arguments, kernels, registers, loads, stores = CALLS[call]
    launches = KERNELS[op].plan(*arguments, architecture=architecture)
    assert launches[0].kernel.fn.__name__ == kernels[architecture]
    for launch in launches:
        compiled = compile_for(architecture, launch)
        name = launch.kernel.fn.__name__
        assert compiled.stack <= STACK.get((name, architecture), 0)
        assert compiled.registers <= SUMS.get(name, registers)
        if name in SUMS:
            continue
        if name == BOXES:
            assert compiled.count(r"UTMALDG.*") >= 2
            assert compiled.count(r"UTMASTG.*") >= 1
        else:
            assert compiled.count(r"LDG\S*\.128\S*") >= loads
            assert compiled.count(r"STG\S*\.128\S*") >= stores
        multiplied = compiled.count(r"FFMA.*" if "float32" in call else PRODUCT[architecture])
        assert multiplied >= 2
