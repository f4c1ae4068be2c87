"""Hypothesis draws what no list of cases would: layouts, strides, sizes around the vector widths,
and calls with one argument spoiled. Right answers or clear errors; the process survives both."""

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from fastconv import ops, reference
from tests.helpers import ACTIVATIONS, LAYOUTS, assert_close

settings.register_profile(
    "fastconv", max_examples=60, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile("fastconv")

channels = st.sampled_from([1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 65])
sides = st.sampled_from([1, 2, 3, 5, 6, 7, 8, 13, 14, 15, 16, 17, 29])
batches = st.sampled_from([0, 1, 1, 2, 3])
dtypes = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])
layouts = st.sampled_from(LAYOUTS)
activations = st.sampled_from(ACTIVATIONS)


def tensor(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


@st.composite
def images(draw: st.DrawFn) -> Tensor:
    """A batch of images in any layout, perhaps a window of a larger one."""
    shape = (draw(batches), draw(channels), draw(sides), draw(sides))
    x = draw(layouts)(tensor(shape, draw(dtypes)))
    if draw(st.booleans()) and shape[2] > 1 and shape[3] > 2:
        x = x[:, :, 1:, 1:-1]
    return x


@given(images(), st.data())
def test_depthwise_conv2d(x, data):
    kernel = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    stride = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = data.draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    multiplier = data.draw(st.sampled_from([1, 1, 2, 3]))
    activation = data.draw(activations)
    size = x.shape[1]
    w = tensor((size * multiplier, 1, *kernel), x.dtype, 1)
    b = tensor((size * multiplier,), x.dtype, 2) if data.draw(st.booleans()) else None
    geometry = (stride, padding, dilation)
    wide = (x.double(), w.double(), None if b is None else b.double())
    try:
        expected = F.conv2d(*wide, *geometry, size)
    except RuntimeError:
        with pytest.raises(RuntimeError):
            ops.depthwise_conv2d(x, w, b, *geometry, activation)
        return
    y = ops.depthwise_conv2d(x, w, b, *geometry, activation)
    assert_close(y, reference.activate(expected, activation), w[0].numel() + 8, scale=8)


@given(images(), channels, activations, st.data())
def test_pointwise_conv2d(x, out_channels, activation, data):
    stride = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    w = tensor((out_channels, x.shape[1], 1, 1), x.dtype, 1)
    w = ops.pack_pointwise_weight(w) if data.draw(st.booleans()) else w
    b = tensor((out_channels,), x.dtype, 2) if data.draw(st.booleans()) else None
    expected = F.conv2d(x.double(), w.double(), None if b is None else b.double(), stride)
    r = None
    if data.draw(st.booleans()):
        r = data.draw(layouts)(tensor(tuple(expected.shape), x.dtype, 3))
        expected = expected + r.double()
    y = ops.pointwise_conv2d(x, w, b, r, stride, activation)
    assert_close(y, reference.activate(expected, activation), x.shape[1] + 8, scale=8)


@given(images(), st.integers(1, 9), st.sampled_from([0.75, 0.5, 1.0, 0.3]))
def test_local_response_norm(x, size, beta):
    arguments = (size, 0.5, beta, 1.5)
    expected = F.local_response_norm(x.double(), *arguments)
    assert_close(ops.local_response_norm(x, *arguments), expected, size + 16, scale=2)


@given(images(), layouts, activations)
def test_residual_add(x, layout, activation):
    r = layout(tensor(tuple(x.shape), x.dtype, 1))
    expected = reference.residual_add(x.double(), r.double(), activation)
    assert_close(ops.residual_add(x, r, activation), expected, terms=8, scale=8)


@given(images(), st.sampled_from([1, 2]), st.data())
def test_gradients_of_any_strides(x, stride, data):
    """The gradient that comes in has a drawn layout; both convolutions, against float64."""
    size = x.shape[1]
    cases = [
        (ops.depthwise_conv2d, tensor((size, 1, 3, 3), x.dtype, 1), (None, stride, 1), size),
        (ops.pointwise_conv2d, tensor((5, size, 1, 1), x.dtype, 1), (None, None, stride), 1),
    ]
    function, w, rest, groups = data.draw(st.sampled_from(cases))
    padding = 1 if groups == size and w.shape[1] == 1 and w.shape[2] == 3 else 0
    x, w = x.detach().requires_grad_(), w.requires_grad_()
    y = function(x, w, *rest)
    dy = data.draw(layouts)(tensor(tuple(y.shape), x.dtype, 2))
    actual = torch.autograd.grad(y, (x, w), dy)
    x64, w64 = x.detach().double().requires_grad_(), w.detach().double().requires_grad_()
    y64 = F.conv2d(x64, w64, None, stride, padding, 1, groups)
    expected = torch.autograd.grad(y64, (x64, w64), dy.double())
    pixels = dy.shape[0] * dy.shape[2] * dy.shape[3]
    assert_close(actual[0], expected[0], 16, scale=8)
    assert_close(actual[1], expected[1], pixels + 16, scale=8)


# What a caller may hand in by mistake for a tensor or for a number.
SPOILED = [
    None,
    3,
    "image",
    [1.0],
    torch.ones(()),
    torch.ones(0),
    torch.ones(2, 3),
    torch.ones(1, 4, 5, 5, dtype=torch.int64),
    torch.ones(1, 4, 5, 5, dtype=torch.float64),
    torch.ones(2, 3, 4, 5, 6),
    torch.ones(1, 4, 5, 5).to_sparse(),
    torch.ones(1, 4, 5, 5, device="meta"),
    (1, 2, 3),
    -1,
    0,
    2**40,
    0.5,
    float("nan"),
    True,
    "same",
    "relu",
]


def good_calls() -> list:
    x = torch.randn(1, 4, 5, 5)
    return [
        (ops.depthwise_conv2d, [x, torch.randn(4, 1, 3, 3), torch.randn(4), 1, 1, 1, "relu"]),
        (ops.pointwise_conv2d, [x, torch.randn(8, 4, 1, 1), torch.randn(8), None, 1, "relu6"]),
        (ops.conv2d, [x, torch.randn(4, 1, 3, 3), None, 1, 1, 1, 4, "silu"]),
        (ops.local_response_norm, [x, 5, 1e-4, 0.75, 1.0]),
        (ops.residual_add, [x, torch.randn(1, 4, 5, 5), "relu"]),
    ]


@settings(max_examples=400)
@given(st.sampled_from(range(5)), st.data())
def test_a_spoiled_argument_is_an_answer_or_a_clear_error(which, data):
    function, arguments = good_calls()[which]
    position = data.draw(st.integers(0, len(arguments) - 1))
    arguments[position] = data.draw(st.sampled_from(SPOILED))
    try:
        result = function(*arguments)
    except (TypeError, RuntimeError, ValueError, NotImplementedError) as error:
        assert str(error)  # noqa: PT017  any of torch's types will do, silence will not
    else:
        assert isinstance(result, Tensor)
