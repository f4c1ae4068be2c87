"""The gradients of a 1x1 convolution and the batch norm behind it, in one pass."""

import copy
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

import fastconv
from fastconv import reference
from tests.helpers import (
    ACTIVATIONS,
    DTYPES,
    MATRIX_ISAS,
    assert_same_bits_on_any_threads,
    channels_last,
    isa,
    reaches,
)

OP = torch.ops.fastconv.pointwise_batch_norm_backward.default
EPS = 1e-5
# (batch, in, out, height, width): a pixel, a block, blocks of unequal size, more than splits.
SHAPES = [(1, 3, 5, 1, 2), (2, 16, 24, 9, 7), (3, 17, 33, 11, 13), (1, 8, 300, 90, 50)]


def arguments(shape, dtype=torch.float32):
    """Gradient, output of the convolution, its input and weight, weight and bias of the norm."""
    batch, inner, outer, *size = shape
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x, g = torch.randn(batch, inner, *size), torch.randn(batch, outer, *size)
    w = torch.randn(outer, inner, 1, 1) / inner**0.5
    x, w, g = (channels_last(t.to(dtype)) for t in (x, w, g))
    return g, F.conv2d(x, w), x, w, torch.rand(outer, dtype=wide) + 1, torch.randn(outer).to(wide)


def statistics(y):
    wide = torch.promote_types(y.dtype, torch.float32)
    var, mean = torch.var_mean(y.to(wide), (0, 2, 3), correction=0)
    return mean, var


def expected(g, y, x, w, weight, bias, activation):
    """Gradients in float64; the norm's input has the rounded values of y."""
    y, weight, bias = (t.double().requires_grad_() for t in (y, weight, bias))
    z = reference.activate(F.batch_norm(y, None, None, weight, bias, True, eps=EPS), activation)
    between, of_weight, of_bias = torch.autograd.grad(z, (y, weight, bias), g.double())
    x, w = x.double().requires_grad_(), w.double().requires_grad_()
    return *torch.autograd.grad(F.conv2d(x, w), (x, w), between), of_weight, of_bias


@pytest.mark.parametrize("name", MATRIX_ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_values(shape, dtype, name):
    torch.manual_seed(0)
    tensors = arguments(shape, dtype)
    right = expected(*tensors, None)
    with isa(name), reaches("batch_norm_backward.nhwc"):
        gradients = OP(*tensors, *statistics(tensors[1]), EPS, None)
    bound = 4 if dtype in (torch.bfloat16, torch.float16) else 400
    for actual, wanted, like in zip(gradients, right, tensors[2:], strict=True):
        assert actual.stride() == like.stride()
        error = (actual.double() - wanted).abs().max() / wanted.abs().max().clamp_min(1.0)
        assert error <= bound * torch.finfo(dtype).eps


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_and_any_strides(activation):
    g, y, x, w, weight, bias = arguments((2, 8, 12, 9, 7), torch.float64)
    right = expected(g, y, x, w, weight, bias, activation)
    sources = g[:, :1].expand_as(g), y.contiguous(), x.transpose(2, 3).contiguous().transpose(2, 3)
    sparse = expected(sources[0], y, x, w, weight, bias, activation)
    for gradient, wanted in ((g, right), (sources[0], sparse)):
        gradients = OP(gradient, *sources[1:], w, weight, bias, *statistics(y), EPS, activation)
        for actual, one in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(actual, one)


def test_opcheck_and_same_bits_on_any_threads():
    tensors = arguments((2, 4, 6, 5, 3))
    opcheck(OP, (*tensors, *statistics(tensors[1]), EPS, "relu6"))
    large = arguments((4, 16, 48, 40, 40))
    settings = (*statistics(large[1]), EPS, "silu")
    assert_same_bits_on_any_threads(lambda: OP(*large, *settings))


@pytest.mark.parametrize(
    ("index", "tensor", "said"),
    [
        (0, torch.ones(2, 6, 5, 4), "gradient of shape"),
        (1, torch.ones(2, 6, 5), "conv_output with 4 dimensions"),
        (2, torch.ones(2, 4, 5, 3).double(), "dtype of input"),
        (3, torch.ones(6, 3, 1, 1), "conv_weight of shape"),
        (4, torch.ones(5), "weight of shape"),
    ],
)
def test_bad_input(index, tensor, said):
    tensors = list(arguments((2, 4, 6, 5, 3)))
    settings = *statistics(tensors[1]), EPS, None
    tensors[index] = tensor
    with pytest.raises(RuntimeError, match=said):
        OP(*tensors, *settings)


class Calls(TorchDispatchMode):
    """The names of our ops that ran."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._schema.name.removeprefix("fastconv::"))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def chain(monkeypatch):
    """A chain of which the first two layers fit one pass, however small; and a copy of torch's."""
    module = sys.modules["fastconv.ops.pointwise_batch_norm"]
    monkeypatch.setattr(module, "LEAST_BYTES", 0)
    torch.manual_seed(0)
    theirs = nn.Sequential(
        nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6(), nn.Conv2d(24, 4, 1)
    )
    theirs = theirs.to(memory_format=torch.channels_last)
    return fastconv.swap_(copy.deepcopy(theirs)), theirs


def gradients(model, x, **settings):
    x = x.clone().requires_grad_()
    with Calls() as calls, torch.autocast("cpu", torch.bfloat16, **settings):
        loss = model(x).float().pow(2).sum()
        loss.backward()
    return [x.grad, *(p.grad for p in model.parameters())], "pointwise_batch_norm_backward" in str(
        calls.names
    )


def test_a_swapped_chain_trains_as_torchs(chain):
    ours, theirs = chain
    x = channels_last(torch.randn(3, 8, 9, 7))
    (right, _), (actual, fused) = (gradients(net, x, enabled=False) for net in (theirs, ours))
    assert fused
    for one, wanted in zip(actual, right, strict=True):
        torch.testing.assert_close(one, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    assert gradients(ours, channels_last(x.bfloat16()))[1]  # under autocast


def test_a_gradient_of_a_gradient(chain):
    ours, theirs = chain
    found = []
    for net in (theirs, ours):
        x = channels_last(torch.randn(2, 8, 5, 4, generator=torch.Generator().manual_seed(1)))
        x = x.double().requires_grad_()
        net.double()
        (g,) = torch.autograd.grad(net(x).pow(3).sum(), x, create_graph=True)
        found.append(torch.autograd.grad(g.pow(2).sum(), [x, *net.parameters()], allow_unused=True))
    for one, wanted in zip(*found, strict=True):
        torch.testing.assert_close(one, wanted)


@pytest.mark.parametrize(
    "watch", ["hook", "pre-hook", "backward hook", "frozen", "bias", "restored"]
)
def test_what_is_seen_keeps_its_gradient(chain, watch):
    ours, _ = chain
    seen = []
    if watch == "hook":
        ours[0].register_forward_hook(lambda m, x, y: seen.append(y) or y.retain_grad())
    elif watch == "pre-hook":
        ours[1].register_forward_pre_hook(lambda m, x: seen.append(x[0]) or x[0].retain_grad())
    elif watch == "backward hook":
        ours[0].register_full_backward_hook(lambda m, x, y: seen.append(y[0]))
    elif watch == "frozen":
        ours[0].weight.requires_grad_(False)
    elif watch == "bias":
        ours[0].bias = nn.Parameter(torch.zeros(24))
    else:
        fastconv.restore_(ours)
        assert "feeds_norm" not in ours[0].__dict__
    assert not gradients(ours, channels_last(torch.randn(3, 8, 9, 7)), enabled=False)[1]
    for tensor in seen:
        assert (tensor if tensor.grad is None else tensor.grad).abs().sum() > 0
    assert len(seen) == watch.endswith("hook")
