import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

import fastconv
from fastconv.ops import depthwise_conv1d
from tests.helpers import ACTIVATIONS, DTYPES, assert_close


def rows_of_channels(x):
    """The same values stored as (N, L, C)."""
    return x.transpose(-1, -2).contiguous().transpose(-1, -2)


LAYOUTS = [torch.Tensor.contiguous, rows_of_channels]
# channels, length, kernel, stride, padding, dilation
WINDOWS = [
    (16, 40, 4, 1, 3, 1),
    (9, 17, 3, 2, 1, 1),
    (1, 8, 8, 1, 0, 1),
    (24, 64, 31, 1, 15, 1),
    (5, 30, 5, 3, (4, 1), 2),
    (8, 1, 4, 1, 3, 1),
]


def expected(x, w, b, stride, padding, dilation):
    left, right = padding if isinstance(padding, tuple) else (padding, padding)
    return F.conv1d(F.pad(x, (left, right)), w, b, stride, 0, dilation, x.shape[-2])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", WINDOWS)
def test_values_and_gradients(window, dtype, layout):
    channels, length, kernel, *rest = window
    x = layout(torch.randn(2, channels, length)).to(dtype).requires_grad_()
    w = torch.randn(channels, 1, kernel).to(dtype).requires_grad_()
    b = torch.randn(channels).to(dtype).requires_grad_()
    y = depthwise_conv1d(x, w, b, *rest)
    g = torch.randn_like(y)
    y.backward(g)
    x64, w64, b64 = (t.detach().double().requires_grad_() for t in (x, w, b))
    y64 = expected(x64, w64, b64, *rest)
    y64.backward(g.double())
    assert_close(y, y64, terms=kernel, scale=9)
    assert_close(x.grad, x64.grad, terms=kernel, scale=9)
    assert_close(w.grad, w64.grad, terms=2 * length, scale=9)
    assert_close(b.grad, b64.grad, terms=2 * length, scale=4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_result_has_the_order_of_the_input(layout):
    x = layout(torch.randn(2, 16, 9))
    y = depthwise_conv1d(x, torch.randn(16, 1, 3), padding=1)
    assert y.stride() == x.stride()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_causal_padding_and_activation(activation):
    x, w, b = torch.randn(2, 12, 20), torch.randn(12, 1, 4), torch.randn(12)
    y = depthwise_conv1d(x, w, b, padding="causal", dilation=2, activation=activation)
    z = F.conv1d(F.pad(x, (6, 0)), w, b, dilation=2, groups=12)
    torch.testing.assert_close(y, fastconv.reference.activate(z, activation))
    later = x.clone()
    later[..., 10:] += 1
    assert torch.equal(
        depthwise_conv1d(later, w, b, padding="causal", dilation=2, activation=activation)[
            ..., :10
        ],
        y[..., :10],
    )


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_by_name(padding):
    x, w = torch.randn(2, 6, 15), torch.randn(6, 1, 4)
    y = depthwise_conv1d(x, w, padding=padding)
    ends = (1, 2) if padding == "same" else (0, 0)
    torch.testing.assert_close(y, F.conv1d(F.pad(x, ends), w, groups=6))


def test_unbatched_and_out():
    x, w = torch.randn(6, 15), torch.randn(12, 1, 3)
    y = depthwise_conv1d(x, w)
    torch.testing.assert_close(y, F.conv1d(x, w, groups=6))
    out = torch.empty_like(y)
    assert depthwise_conv1d(x, w, out=out) is out
    assert torch.equal(out, y)


def test_gradcheck():
    x = torch.randn(1, 3, 7, dtype=torch.float64, requires_grad=True)
    w = torch.randn(3, 1, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(
        lambda x, w: depthwise_conv1d(x, w, padding="causal", activation="silu"), (x, w)
    )


def test_compiles_whole_for_any_length():
    function = torch.compile(depthwise_conv1d, fullgraph=True, dynamic=True, backend="aot_eager")
    w = torch.randn(6, 1, 3)
    for length in (9, 12):
        x = torch.randn(2, 6, length)
        torch.testing.assert_close(function(x, w), F.conv1d(x, w, groups=6))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.randn(2, 6, 1, 9), torch.randn(6, 1, 3)), RuntimeError, "2 or 3 dimensions"),
        ((torch.randn(2, 6, 9), torch.randn(5, 1, 3)), RuntimeError, r"weight of shape \(6"),
        ((torch.randn(2, 6, 2), torch.randn(6, 1, 3)), RuntimeError, "no larger than"),
        ((torch.randn(2, 6, 9), torch.randn(6, 1, 3), None, 0), RuntimeError, "from 1"),
        ((torch.randn(2, 6, 9), torch.randn(6, 1, 3), None, 1, "full"), RuntimeError, "'causal'"),
        ((torch.randn(2, 6, 9), torch.randn(6, 1, 3), None, 2, "same"), RuntimeError, "stride 1"),
        ((torch.randn(2, 6, 9), torch.randn(6, 1, 3), None, 1, 0.5), TypeError, "padding"),
        (([1.0], torch.randn(6, 1, 3)), TypeError, "input"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        depthwise_conv1d(*arguments)


@pytest.mark.parametrize("padding", [2, "same", "causal"])
def test_layer_is_torch_s(padding):
    ours = fastconv.nn.DepthwiseConv1d(6, 5, padding=padding, activation="silu")
    theirs = torch.nn.Conv1d(6, 6, 5, padding=0 if padding == "causal" else padding, groups=6)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, 11)
    z = theirs(F.pad(x, (4, 0)) if padding == "causal" else x)
    torch.testing.assert_close(ours(x), F.silu(z))
    assert "groups=6" in repr(ours)
    assert "activation='silu'" in repr(ours)


def test_layer_with_other_padding_modes():
    ours = fastconv.nn.DepthwiseConv1d(6, 3, padding=1, padding_mode="reflect")
    theirs = torch.nn.Conv1d(6, 6, 3, padding=1, groups=6, padding_mode="reflect")
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, 11)
    torch.testing.assert_close(ours(x), theirs(x))
    with pytest.raises(ValueError, match="causal"):
        fastconv.nn.DepthwiseConv1d(6, 3, padding="causal", padding_mode="reflect")
