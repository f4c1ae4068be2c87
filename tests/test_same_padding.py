import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fastconv.models.conv_norm_activation import ConvNormActivation
from fastconv.models.same_padding import SamePad2d


@given(
    size=st.integers(1, 300),
    kernel_size=st.integers(1, 7),
    stride=st.integers(1, 4),
)
def test_same_padding_is_tensorflows(size, kernel_size, stride):
    if stride > kernel_size:
        with pytest.raises(ValueError, match="stride"):
            SamePad2d(kernel_size, stride)
        return
    before, after = SamePad2d(kernel_size, stride).amount(size)
    output = math.ceil(size / stride)
    total = max((output - 1) * stride + kernel_size - size, 0)
    assert before + after == total
    assert after - before in (0, 1)


def test_same_padding_goes_to_the_bottom_right_first():
    padded = SamePad2d(3, 2)(torch.ones(1, 1, 4, 5))
    assert padded.shape == (1, 1, 5, 7)
    assert padded[0, 0, 0].tolist() == [0, 1, 1, 1, 1, 1, 0]
    assert padded[0, 0, -1].sum() == 0


def test_same_padding_exports_for_any_size():
    Dim = torch.export.Dim
    layer = nn.Sequential(SamePad2d(5, 2), nn.Conv2d(3, 4, 5, 2))
    shapes = ({2: Dim("height", min=8), 3: Dim("width", min=8)},)
    program = torch.export.export(layer, (torch.randn(1, 3, 30, 31),), dynamic_shapes=shapes)
    for height, width in [(9, 8), (30, 31), (64, 65)]:
        input = torch.randn(1, 3, height, width)
        torch.testing.assert_close(program.module()(input), layer(input))


def test_convolution_pads_on_every_side_or_as_tensorflow():
    """A 3x3 sum with stride 2 of a 4x4 of ones tells where its zeros are."""
    sums = {}
    for same_padding in (False, True):
        layer = ConvNormActivation(
            1, 1, 3, 2, layers=nn, activation=None, same_padding=same_padding
        )
        layer[-1] = nn.Identity()
        nn.init.ones_(layer[-2].weight)
        sums[same_padding] = layer(torch.ones(1, 1, 4, 4)).squeeze().tolist()
    assert sums == {False: [[4, 6], [6, 9]], True: [[9, 6], [6, 4]]}


@pytest.mark.parametrize("same_padding", [False, True])
def test_no_layer_pads_where_the_convolution_can(same_padding):
    layer = ConvNormActivation(4, 4, 5, layers=nn, activation=None, same_padding=same_padding)
    assert [name for name, _ in layer.named_children()] == ["0", "1"]
