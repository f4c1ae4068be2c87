"""The kernels of pointwise_conv2d_backward against its reference, and training by Triton alone."""

import pytest
import torch

from fastconv import ops, use_backend
from fastconv.triton_kernels import KERNELS
from fastconv.triton_kernels import pointwise_conv2d_backward as file
from tests.helpers import channels_last, contiguous, expanded, permuted
from tests.triton.helpers import DEVICE, DTYPES, LAYOUTS, assert_agrees, call

ALL = (True, True, True)


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    monkeypatch.setattr(file, "NUMBERS", 1024)


def tensors(shape, outputs, dtype=torch.float32, layout=contiguous, stride=(1, 1)):
    """The tensors of a call: gradient, input, weight, stride."""
    batch, channels, height, width = shape
    size = (batch, outputs, -(-height // stride[0]), -(-width // stride[1]))
    g, x, w = torch.randn(size), torch.randn(shape), torch.randn(outputs, channels, 1, 1)
    return layout(g).to(dtype), layout(x).to(dtype), w.to(dtype), stride


def agree(g, x, w, stride, mask=ALL):
    terms = max(g.shape[1], g.numel() // g.shape[1])
    assert_agrees("pointwise_conv2d_backward", g, x, w, stride, mask, terms=terms, scale=16)


@pytest.mark.parametrize(("channels", "outputs"), [(24, 144), (72, 40), (3, 1)])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_values(channels, outputs, layout, dtype):
    agree(*tensors((2, channels, 5, 7), outputs, dtype, layout))


@pytest.mark.parametrize("stride", [(2, 2), (1, 3)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_stride_leaves_zeros(layout, stride):
    agree(*tensors((2, 24, 7, 9), 40, layout=layout, stride=stride))


@pytest.mark.parametrize("layout", [permuted, expanded])
def test_other_strides_are_made_dense(layout):
    g, x, w, stride = tensors((2, 24, 7, 7), 40)
    agree(layout(g), x, w, stride)
    agree(g, layout(x), w, stride)
    agree(torch.ones(()).expand(g.shape), channels_last(x), w, stride)


def test_many_channels():
    for layout in LAYOUTS:
        agree(*tensors((1, 160, 3, 7), 130, torch.bfloat16, layout))


def test_many_slabs_and_many_steps(monkeypatch):
    monkeypatch.setattr(file, "processors", lambda device: 1)
    monkeypatch.setattr(file, "NUMBERS", 32)
    for layout in LAYOUTS:
        agree(*tensors((3, 16, 9, 15), 16, layout=layout))
        agree(*tensors((1, 80, 16, 40), 16, layout=layout))


@pytest.mark.parametrize("mask", [(True, False, False), (False, True, False), (False, False, True)])
def test_only_what_is_wanted(mask):
    arguments = tensors((2, 24, 5, 7), 40)
    for asked, result in zip(
        mask, call("pointwise_conv2d_backward", *arguments, mask), strict=True
    ):
        assert bool(result.numel()) == asked
    agree(*arguments, mask)


def test_the_gradient_of_a_packed_weight_is_packed():
    g, x, w, stride = tensors((2, 24, 5, 7), 40, layout=channels_last)
    agree(g, x, ops.pack_pointwise_weight(w), stride)


def test_no_images():
    agree(*tensors((0, 24, 5, 7), 40))


def test_bad_input():
    g, x, w, stride = tensors((2, 24, 5, 7), 40)
    with pytest.raises(RuntimeError, match="grad_output of shape"):
        KERNELS["pointwise_conv2d_backward"](g[:, 1:], x, w, stride, ALL)
    with pytest.raises(RuntimeError, match="weight of shape"):
        KERNELS["pointwise_conv2d_backward"](g, x, w[:, 1:], stride, ALL)


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
def test_the_op_trains_on_triton(activation):
    x, w, b = torch.randn(2, 8, 5, 7), torch.randn(16, 8, 1, 1), torch.randn(16)
    r = torch.randn(2, 16, 5, 7)

    def gradients(*tensors):
        leaves = [t.detach().requires_grad_() for t in tensors]
        y = ops.pointwise_conv2d(*leaves, activation=activation)
        return torch.autograd.grad(y.square().sum(), leaves)

    expected = gradients(*(t.double() for t in (x, w, b, r)))
    with use_backend("triton"):
        actual = gradients(*(t.to(DEVICE) for t in (x, w, b, r)))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.cpu().double(), e, rtol=1e-4, atol=1e-4)
