"""The kernels of residual_add and activation_backward against their references."""

import pytest
import torch

from fastconv import reference
from tests.helpers import ACTIVATIONS, channels_last, contiguous, expanded, sliced
from tests.triton.helpers import DTYPES, LAYOUTS, assert_agrees, call


@pytest.mark.parametrize("layout", [*LAYOUTS, sliced])
@pytest.mark.parametrize("dtype", DTYPES)
def test_values(layout, dtype):
    x, r = (layout(torch.randn(2, 8, 17, 33).to(dtype)) for _ in range(2))
    for activation in ACTIVATIONS:
        assert_agrees("residual_add", 4 * x, r, activation, scale=16)
    assert_agrees("residual_add", x, channels_last(r))


@pytest.mark.parametrize("size", [1, 7, 4095, 4096, 4097])
def test_blocks_end_anywhere(size):
    x, r = torch.randn(2, size)
    assert_agrees("residual_add", x, r, "relu")
    assert_agrees("activation_backward", x, r, "silu", terms=4, scale=4)


def test_nan_and_infinity_pass():
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0])
    for activation in ("relu", "relu6", "hardswish"):
        assert_agrees("residual_add", x, torch.zeros(4), activation)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("residual", [(2, 3, 9, 13), (2, 3, 10, 14), (2, 5, 5, 7), (2, 5, 13, 19)])
def test_shortcut(layout, residual):
    x, r = layout(torch.randn(2, 5, 5, 7)), layout(torch.randn(residual))
    if r.shape != x.shape:
        assert_agrees("residual_add", x, r, "relu")


@pytest.mark.parametrize("layout", [*LAYOUTS, expanded])
@pytest.mark.parametrize("dtype", DTYPES)
def test_activation_backward(layout, dtype):
    g, z = layout(torch.randn(2, 8, 17, 17).to(dtype)), contiguous(torch.randn(2, 8, 17, 17))
    for activation in ACTIVATIONS:
        assert_agrees("activation_backward", g, (4 * z).to(dtype), activation, terms=4, scale=8)


def test_gradient_at_the_kinks_and_at_nan_is_torchs():
    z = torch.tensor([0.0, 6.0, 3.0, -3.0, float("nan"), 7.0, -8.0])
    for activation in ACTIVATIONS:
        assert_agrees("activation_backward", torch.ones(7), z, activation, scale=2)


@pytest.mark.parametrize("activation", ["relu", "relu6"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bit_an_element_serves_the_backward_pass(activation, layout, dtype):
    x, r = (layout(4 * torch.randn(2, 8, 17, 17)).to(dtype) for _ in range(2))
    x[0, 0, 0, 0] = float("nan")
    y, mask = call("residual_add_with_mask", x, r, activation)
    assert torch.equal(y.nan_to_num(), call("residual_add", x, r, activation).nan_to_num())
    assert torch.equal(mask, reference.mask_of(y, activation))
    g = torch.randn(y.shape).to(dtype)
    actual = call("activation_backward_from_mask", g, mask, layout is channels_last)
    assert actual.stride() == y.stride()
    assert torch.equal(actual, call("activation_backward", g, y, activation))


def test_nothing_in_nothing_out():
    for shape in ((0,), (0, 3, 4, 5)):
        assert call("residual_add", torch.empty(shape), torch.empty(shape), "relu").shape == shape
        x = torch.empty(shape)
        assert call("activation_backward", x, x, "relu").shape == shape


def test_bad_input():
    with pytest.raises(RuntimeError, match="residual of input's shape"):
        call("residual_add", torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(RuntimeError, match="residual of the device and dtype"):
        call("residual_add", torch.ones(2), torch.ones(2).half())
    with pytest.raises(RuntimeError, match="got 'tanh'"):
        call("residual_add", torch.ones(2), torch.ones(2), "tanh")
    with pytest.raises(RuntimeError, match="grad_output of shape"):
        call("activation_backward", torch.ones(3), torch.ones(2), "relu")
