"""The tuned kernels of depthwise_conv2d over the edges of their tiles."""

import pytest
import torch

from tests.cuda.emulator import launches
from tests.cuda.test_depthwise_conv2d import check
from tests.helpers import channels_last, contiguous
from tests.test_depthwise_conv2d import fits

# Stride, padding; the transpose of a stride has a case for each parity of the padding.
STRIDES = [(1, "same"), (1, 0), (2, "half"), (2, 0), (2, (0, 0, 1, 1))]
TYPES = [torch.float32, torch.bfloat16, torch.float16]
# Below, at and above the tiles of a thread (4 x 7) and of a block.
SIZES = [(16, 7, 7), (40, 14, 13), (32, 9, 31), (24, 33, 8), (72, 8, 57)]


def type_of(kernel, stride, index):
    """7x7 of stride 1 in 16 bits is the matrix unit's."""
    return TYPES[0] if (kernel, stride) == (7, 1) else TYPES[(index + kernel) % 3]


def window_of(kernel, stride, padding):
    return (kernel, stride, kernel // 2 if padding == "half" else padding, 1, 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("stride", "padding"), STRIDES)
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_channels_last(kernel, stride, padding, size):
    dtype = type_of(kernel, stride, SIZES.index(size))
    with launches("depthwise_conv2d_nhwc_tile"), launches("depthwise_conv2d_weight_nhwc_tile"):
        check(size, window_of(kernel, stride, padding), channels_last, dtype, together=False)


# Whole planes, several a block; bands of rows; rows of 2, 4 and 8 elements' alignment.
PLANES = [(3, 7, 7), (40, 14, 13), (5, 9, 30), (2, 90, 28), (3, 40, 100), (1, 3, 510)]


@pytest.mark.parametrize(
    ("size", "window"),
    [
        (size, window)
        for size in PLANES
        for window in (window_of(kernel, *step) for kernel in (3, 5, 7) for step in STRIDES)
        if fits(size, window)
    ],
)
def test_contiguous(size, window):
    dtype = type_of(*window[:2], PLANES.index(size))
    with launches("depthwise_conv2d_nchw_tile"), launches("depthwise_conv2d_weight_nchw_tile"):
        check(size, window, contiguous, dtype, together=False)
