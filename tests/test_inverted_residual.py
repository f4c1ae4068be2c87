from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.library import opcheck

import fastconv
from fastconv import reference
from fastconv.ops import inverted_residual, pack_depthwise_weight, pack_pointwise_weight
from tests.helpers import (
    ACTIVATIONS,
    DTYPES,
    ISAS,
    LAYOUTS,
    assert_close,
    assert_same_bits_on_any_threads,
    channels_last,
    contiguous,
    isa,
    reaches,
    threads,
)

OP = torch.ops.fastconv.inverted_residual.default
NO_SQUEEZE = (None,) * 4  # tests/test_squeeze_excitation.py has the blocks with one

# batch, in, hidden, out, height, width: about a panel (32 channels), a depthwise tile (7 columns,
# 2 rows), a strip (56 pixels); one channel, one row; small maps of one image go by channels.
SHAPES = [
    (2, 5, 33, 7, 9, 11),
    (1, 16, 96, 24, 14, 14),
    (1, 8, 50, 8, 30, 29),
    (1, 40, 96, 40, 7, 7),
    (1, 40, 98, 40, 8, 9),
    (2, 8, 16, 16, 1, 3),
    (1, 1, 1, 1, 5, 5),
    (3, 3, 17, 49, 17, 6),
    (2, 4, 32, 4, 3, 113),
    (1, 64, 48, 64, 15, 14),  # outputs of four and of three vectors
    (2, 48, 50, 48, 9, 21),
]
WINDOWS = [  # kernel, stride, padding
    (3, 1, 1),
    (3, 2, 1),
    (3, 2, (0, 0, 1, 1)),
    (5, 1, 2),
    (5, 2, 2),
    (5, 2, (1, 2, 3, 0)),
    (7, 1, 3),
    (7, 2, 3),
    (4, 1, (1, 1, 2, 2)),
    ((3, 5), (2, 1), (1, 2)),
]

# One row has no room for an unpadded kernel.
CASES = [(s, w) for s in SHAPES for w in WINDOWS if s[4] > 1 or w[2] != (0, 0, 1, 1)]


def make(shape, kernel=3, dtype=torch.float32, layout=channels_last):
    """The seven tensors of a call whose sums stay near one."""
    batch, channels, hidden, out, height, width = shape
    kernel = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    weights = (
        torch.randn(hidden, channels, 1, 1) / channels**0.5,
        torch.randn(hidden) / 4,
        torch.randn(hidden, 1, *kernel) / kernel[0],
        torch.randn(hidden) / 4,
        torch.randn(out, hidden, 1, 1) / hidden**0.5,
        torch.randn(out),
    )
    x = layout(torch.randn(batch, channels, height, width).to(dtype))
    return x, *(w.to(dtype) for w in weights)


def expectation(tensors, stride=1, padding=0, activation="relu6", residual=False):
    stride = stride if isinstance(stride, tuple) else (stride, stride)
    if not isinstance(padding, tuple):
        padding = (padding,) * 4
    if len(padding) == 2:
        padding = padding * 2
    tensors = (None if t is None else t.double() for t in tensors)
    return reference.inverted_residual(*tensors, *NO_SQUEEZE, stride, padding, activation, residual)


def terms_of(tensors):
    return tensors[0].shape[1] + tensors[3][0].numel() + tensors[3].shape[0]


def assert_right(y, tensors, *arguments):
    expected = expectation(tensors, *arguments)
    scale = 8
    if y.dtype in (torch.bfloat16, torch.float16):  # the parts round what is hidden
        error = (y.double() - expected).abs().max()
        assert error <= 16 * torch.finfo(y.dtype).eps * max(expected.abs().max(), 1)
    else:
        assert_close(y, expected, terms_of(tensors), scale)


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize(("shape", "window"), CASES)
def test_values(shape, window, name):
    kernel, stride, padding = window
    tensors = make(shape, kernel)
    residual = stride == 1 and shape[1] == shape[3]
    with isa(name):
        y = inverted_residual(*tensors, stride, padding, "relu6", residual)
    assert_right(y, tensors, stride, padding, "relu6", residual)
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dtypes_and_layouts(layout, dtype, name):
    tensors = make((2, 6, 40, 6, 9, 8), 3, dtype, layout)
    with isa(name):
        y = inverted_residual(*tensors, 1, 1, residual=True)
    assert_right(y, tensors, 1, 1, "relu6", True)
    raw = OP(*tensors, *NO_SQUEEZE, (1, 1), (1, 1, 1, 1), "relu6", True)
    assert y.stride() == raw.stride()


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_and_missing_biases(activation, name):
    for size in (5, 16):
        x, *weights = make((1, 12, 40, 10, size, size))
        for biases in ([0, 2, 4], [1, 3, 5]):
            some = [w if i in biases or i % 2 == 0 else None for i, w in enumerate(weights)]
            with isa(name):
                y = inverted_residual(3 * x, *some, 1, 1, activation)
            assert_right(y, (3 * x, *some), 1, 1, activation)


def test_any_strides_of_the_weights():
    tensors = make((1, 20, 72, 30, 9, 9))
    expected = inverted_residual(*tensors, 1, 1)
    x, expand, expand_bias, filters, filter_bias, project, project_bias = tensors
    packed = pack_pointwise_weight(expand), pack_depthwise_weight(filters)
    spread = torch.zeros(20, 80, 1, 1)[:, :72].transpose(0, 1).copy_(expand)  # rows lie apart
    for first in (packed[0], spread, torch.stack([expand, expand], 1)[:, 0]):
        for second in (packed[1], filters.transpose(2, 3).contiguous().transpose(2, 3)):
            for third in (project, pack_pointwise_weight(project)):
                bias = torch.stack([expand_bias, expand_bias], 1)[:, 0]
                y = inverted_residual(
                    x, first, bias, second, filter_bias, third, project_bias, 1, 1
                )
                assert torch.equal(y, expected)


def test_variants():
    small, large = make((1, 8, 40, 8, 7, 7)), make((2, 8, 40, 8, 7, 7))
    if fastconv._C.isa() == "scalar":
        with reaches("inverted_residual.parts"):
            return inverted_residual(*small, 1, 1)
    with reaches("inverted_residual.channels"):
        inverted_residual(*small, 1, 1)
    with reaches("inverted_residual.rows"):
        inverted_residual(*large, 1, 1)
    for other in (make((2, 8, 40, 8, 7, 7), 4), make((2, 8, 40, 8, 7, 7), layout=contiguous)):
        with reaches("inverted_residual.parts"), reaches("inverted_residual.parts"):
            inverted_residual(*other, 1, 1)
    rows = fastconv.explain(partial(inverted_residual, padding=1), *small)
    assert [(row["op"], row["variant"]) for row in rows] == [("inverted_residual", "channels")]


@pytest.mark.parametrize("shape", SHAPES[:4])
def test_the_parts_give_the_same(shape):
    tensors = make(shape)
    fused = inverted_residual(*tensors, 1, 1)
    parts = inverted_residual(*(t.requires_grad_() for t in tensors), 1, 1)
    assert parts.requires_grad
    torch.testing.assert_close(fused, parts.detach(), rtol=1e-5, atol=1e-5)


def test_nan_and_infinity_pass_as_in_the_parts():
    x, *weights = make((2, 4, 40, 4, 9, 9))
    x[0, 0, 3, 3], x[1, 1, 0, 0] = float("nan"), float("inf")
    weights[2][3, 0, 0, 0] = float("inf")  # skipped in the padding: no NaN there
    for activation in ("relu6", "silu", None):
        y = inverted_residual(x, *weights, 1, 1, activation, True)
        parts = inverted_residual(x, *(w.requires_grad_() for w in weights), 1, 1, activation, True)
        torch.testing.assert_close(y, parts.detach(), rtol=1e-4, atol=1e-4, equal_nan=True)


def test_padding_is_zero_and_not_the_bias():
    x, *weights = make((1, 4, 32, 4, 6, 6))
    weights[1][:] = 5
    assert_right(inverted_residual(x, *weights, 1, 1), (x, *weights), 1, 1)


@pytest.mark.parametrize(
    "shape", [(1, 16, 96, 16, 7, 7), (1, 8, 48, 24, 28, 28), (3, 8, 40, 8, 14, 14)]
)
def test_same_bits_on_any_threads(shape):
    for stride in (1, 2):
        assert_same_bits_on_any_threads(partial(inverted_residual, *make(shape), stride, 1))


def test_a_large_input_and_output():
    tensors = make((4, 16, 32, 96, 112, 112))
    assert_right(inverted_residual(*tensors, 1, 1), tensors, 1, 1)
    tensors = make((2, 40, 32, 16, 112, 112), 5)
    assert_right(inverted_residual(*tensors, 2, 2), tensors, 2, 2)


def test_two_calls_at_once():
    tensors = make((1, 16, 64, 16, 28, 28))
    expected = inverted_residual(*tensors, 1, 1)
    with threads(1), ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda _: inverted_residual(*tensors, 1, 1), range(40))
        assert all(torch.equal(y, expected) for y in results)


def test_unbatched_and_empty():
    x, *weights = make((1, 6, 20, 6, 9, 9))
    y = inverted_residual(x[0], *weights, 1, 1, residual=True)
    torch.testing.assert_close(y, inverted_residual(x, *weights, 1, 1, residual=True)[0])
    assert inverted_residual(x[:0], *weights, 2, 1).shape == (0, 6, 5, 5)


def test_gradients():
    tensors = [t.requires_grad_() for t in make((2, 3, 5, 3, 4, 4), dtype=torch.float64)]
    block = partial(inverted_residual, stride=1, padding=1, activation="silu", residual=True)
    assert gradcheck(block, tensors)

    def raw(*tensors):
        return OP(*tensors, *NO_SQUEEZE, (1, 1), (1, 1, 1, 1), "silu", True)

    assert gradcheck(raw, tensors)
    floats = [t.detach().float().requires_grad_() for t in tensors]
    block(*floats).sum().backward()
    block(*tensors).sum().backward()
    for ours, theirs in zip(floats, tensors, strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_opcheck(layout):
    x, *weights = make((2, 4, 6, 4, 5, 5), layout=layout)
    opcheck(OP, (x, *weights, *NO_SQUEEZE, (1, 1), (1, 1, 1, 1), "relu6", True))
    without = [w if i % 2 == 0 else None for i, w in enumerate(weights)]
    opcheck(OP, (x, *without, *NO_SQUEEZE, (2, 2), (0, 0, 1, 1), None, False))
    weights = [w.requires_grad_() for w in weights]
    opcheck(OP, (x, *weights, *NO_SQUEEZE, (1, 1), (1, 1, 1, 1), "silu", False))


def test_transforms_compile_and_autocast():
    x, *weights = make((4, 6, 20, 6, 8, 8))
    block = partial(inverted_residual, stride=1, padding=1, residual=True)
    expected = block(x, *weights)
    in_dims = (0, *(None for _ in weights))
    folded = torch.func.vmap(block, in_dims)(x.unflatten(0, (2, 2)), *weights)
    torch.testing.assert_close(folded.flatten(0, 1), expected, rtol=1e-5, atol=1e-5)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, *weights), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert block(x, *weights).dtype == torch.bfloat16


def test_flops_are_those_of_the_parts():
    def flops(tensors):
        with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
            inverted_residual(*tensors, 2, 1)
        return counter.get_total_flops()

    tensors = make((2, 6, 20, 10, 9, 8))
    fused = flops(tensors)
    assert fused == flops([t.requires_grad_() for t in tensors])
    assert fused == 2 * 2 * 20 * (6 * 9 * 8 + 5 * 4 * (9 + 10))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_shape(data):
    shape = [data.draw(st.integers(1, most)) for most in (3, 40, 110, 70)]
    shape += [data.draw(st.integers(3, most)) for most in (20, 30)]  # room for every window
    kernel, stride, padding = data.draw(st.sampled_from(WINDOWS))
    tensors = make(shape, kernel, layout=data.draw(st.sampled_from(LAYOUTS)))
    activation = data.draw(st.sampled_from(ACTIVATIONS))
    y = inverted_residual(*tensors, stride, padding, activation)
    assert_right(y, tensors, stride, padding, activation)


X, E, D, P = (
    torch.ones(1, 4, 5, 5),
    torch.ones(8, 4, 1, 1),
    torch.ones(8, 1, 3, 3),
    torch.ones(2, 8, 1, 1),
)
X = channels_last(X)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1, E, None, D, None, P, None), TypeError, "argument 'input' must be Tensor, not int"),
        ((X, None, None, D, None, P, None), TypeError, "argument 'expand_weight' must be Tensor"),
        ((X, E, 1.0, D, None, P, None), TypeError, "argument 'expand_bias' must be Tensor"),
        ((X, E, None, D, None, P, None, 1.5), TypeError, "argument 'stride' must be int"),
        ((X, E[:, :3], None, D, None, P, None), RuntimeError, r"\(out_channels, 4, 1, 1\)"),
        ((X, E, None, D[:7], None, P, None), RuntimeError, r"weight of shape \(8"),
        ((X, E, None, D, None, P[:, :7], None), RuntimeError, r"\(out_channels, 8, 1, 1\)"),
        ((X, E, torch.ones(7), D, None, P, None), RuntimeError, r"bias of shape \(8\)"),
        ((X, E, None, D, torch.ones(7), P, None), RuntimeError, r"bias of shape \(8\)"),
        ((X, E, None, D, None, P, torch.ones(3)), RuntimeError, r"bias of shape \(2\)"),
        ((X, E.double(), None, D, None, P, None), RuntimeError, "dtype of input"),
        ((X, E, None, D.half(), None, P, None), RuntimeError, "dtype of input"),
        ((X, E, None, D, None, P, None, 0), RuntimeError, "stride"),
        ((X, E, None, D, None, P, None, 1, -1), RuntimeError, "padding"),
        ((X, E, None, D, None, P, None, 1, 0, "tanh"), RuntimeError, "got 'tanh'"),
        ((X, E, None, D, None, P, None, 1, 1, None, True), RuntimeError, "residual of shape"),
        ((X, E, None, D, None, P, None, 2, 1, None, True), RuntimeError, "residual of shape"),
        ((X[:, :, :2], E, None, D, None, P, None), RuntimeError, "no larger than the padded"),
        ((X[0, 0], E, None, D, None, P, None), RuntimeError, "4 dimensions"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        inverted_residual(*arguments)


def test_layer():
    layer = fastconv.nn.InvertedResidual(8, 8, 24, kernel_size=5, activation="hardswish")
    x = channels_last(torch.randn(2, 8, 9, 9))
    with torch.no_grad():
        fused = layer(x)
        parts = x + layer.project(layer.depthwise(layer.expand(x)))
    torch.testing.assert_close(fused, parts)
    torch.testing.assert_close(layer(x).detach(), fused, rtol=1e-5, atol=1e-5)
    assert not fastconv.nn.InvertedResidual(8, 8, 24, stride=2).residual
    assert len(layer.state_dict()) == 6
