"""The kernels of local_response_norm, forward and backward, against the reference."""

import pytest
import torch

from tests.helpers import channels_last, contiguous, expanded, sliced
from tests.triton.helpers import DTYPES, LAYOUTS, assert_agrees, call

SHAPES = {
    "channels over a block": (1, 19, 3, 5),
    "few channels": (2, 3, 4, 4),
    "one channel": (2, 1, 3, 3),
    "one pixel": (3, 20, 1, 1),
    "signals": (2, 9, 11),
    "volumes": (1, 9, 2, 3, 2),
}


def check(shape, size, layout=contiguous, dtype=torch.float32, scale=1.0, **window):
    x, g = (scale * torch.randn(shape) for _ in range(2))
    layout = layout if x.dim() == 4 else contiguous
    x, g = layout(x.to(dtype)), layout(g.to(dtype))
    assert_agrees("local_response_norm", x, size, *window.values(), terms=size, scale=4)
    backward = (g, x, size, *window.values())
    assert_agrees("local_response_norm_backward", *backward, terms=4 * size, scale=8)


@pytest.mark.parametrize("layout", [*LAYOUTS, sliced])
@pytest.mark.parametrize("dtype", DTYPES)
def test_values(layout, dtype):
    check((2, 24, 3, 5), 5, layout, dtype, scale=3, alpha=0.1, beta=0.75, k=2.0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_shapes(layout, shape):
    check(shape, 5, layout, alpha=0.5, beta=0.75, k=1.0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 8, 9, 10, 33])
def test_sizes(layout, size):
    check((1, 17, 2, 3), size, layout, alpha=0.5, beta=0.75, k=1.0)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 0.6, -0.25])
def test_powers(beta):
    check((1, 8, 2, 3), 3, alpha=0.5, beta=beta, k=1.0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_gradient(layout):
    x = layout(torch.randn(2, 9, 3, 4))
    for g in (expanded(torch.randn(2, 9, 3, 4)), channels_last(torch.randn(2, 9, 3, 4))):
        assert_agrees("local_response_norm_backward", g, x, 5, 0.5, terms=20, scale=8)


@pytest.mark.parametrize("size", [5, 11])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_nan_and_infinity_stay_within_their_windows(layout, size):
    x = layout(torch.randn(1, 24, 1, 3))
    x[0, 2, 0, 0], x[0, 20, 0, 1] = float("nan"), float("inf")
    assert_agrees("local_response_norm", x, size, 1.0, terms=size, scale=4)
    g = torch.randn(x.shape)
    y = call("local_response_norm_backward", g, x, size, 1.0)
    assert y[0, 14:, 0, 0].isfinite().all()
    assert y[0, :8, 0, 1].isfinite().all()


def test_nothing_in_nothing_out():
    for shape in ((0, 3, 4, 4), (2, 3, 0)):
        assert call("local_response_norm", torch.empty(shape), 5).shape == shape
        x = torch.empty(shape)
        assert call("local_response_norm_backward", x, x, 5).shape == shape


def test_bad_input():
    x = torch.ones(1, 3, 4)
    with pytest.raises(RuntimeError, match="size greater than zero"):
        call("local_response_norm", x, 0)
    with pytest.raises(ValueError, match="3 dimensions or more"):
        call("local_response_norm", x[0], 5)
    with pytest.raises(RuntimeError, match="grad_output of shape"):
        call("local_response_norm_backward", x[:, :2], x, 5)
