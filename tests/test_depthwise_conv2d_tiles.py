"""depthwise_conv2d of 3x3 windows, channels_last, whose tiles know which borders they touch."""

import itertools

import pytest
import torch

from fastconv.ops import depthwise_conv2d
from tests.helpers import DTYPES, ISAS, channels_last, isa
from tests.test_depthwise_conv2d import tensors
from tests.test_depthwise_conv2d_strips import assert_values_and_gradients

# Tiles of 2 rows and 7 columns that touch one border, two, both sides or none; two more channels
# than two vectors of 16.
SIZES = [(34, 4, 7), (34, 8, 21), (34, 13, 14), (34, 12, 28)]
WINDOWS = [(3, stride, padding, 1, 1) for stride, padding in itertools.product((1, 2), (1, 0))]
WINDOWS += [(3, 1, (1, 0, 0, 1), 1, 1), (3, 2, (0, 1, 1, 0), 1, 1), (3, 1, (2, 1, 0, 2), 1, 1)]


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != torch.float64])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("window", WINDOWS)
def test_values_and_gradients(window, size, dtype, name):
    assert_values_and_gradients(*tensors(size, window, channels_last, dtype), window, name)


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("tap", list(itertools.product(range(3), range(3))))
def test_taps_in_the_padding_are_skipped(tap, stride, size, name):
    x, w, b = tensors(size, (3, stride, 1, 1, 1), channels_last)
    w[:, :, tap[0], tap[1]] = float("inf")
    met = torch.zeros_like(w, dtype=torch.float64)
    met[:, :, tap[0], tap[1]] = 1
    ones = torch.ones_like(x)
    with isa(name):
        y = depthwise_conv2d(ones, w, b, stride, 1)
    reads = torch.conv2d(ones.double(), met, None, stride, 1, 1, size[0])
    assert torch.equal(y.isinf(), reads == 1)
