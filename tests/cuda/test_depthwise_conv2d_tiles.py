"""The tuned kernels of depthwise_conv2d over the edges of their tiles."""

import pytest
import torch

from tests.cuda.emulator import launches
from tests.cuda.test_depthwise_conv2d import check
from tests.helpers import channels_last

# Stride, padding; the transpose of a stride has a case for each parity of the padding.
STRIDES = [(1, "same"), (1, 0), (2, "half"), (2, 0), (2, (0, 0, 1, 1))]
TYPES = [torch.float32, torch.bfloat16, torch.float16]
# Below, at and above the tiles of a thread (4 x 7) and of a block.
SIZES = [(16, 7, 7), (40, 14, 13), (32, 9, 31), (24, 33, 8), (72, 8, 57)]


def window_of(kernel, stride, padding):
    return (kernel, stride, kernel // 2 if padding == "half" else padding, 1, 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("stride", "padding"), STRIDES)
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_channels_last(kernel, stride, padding, size):
    dtype = TYPES[(SIZES.index(size) + kernel) % 3]
    with launches("depthwise_conv2d_nhwc_tile"):
        check(size, window_of(kernel, stride, padding), channels_last, dtype)
