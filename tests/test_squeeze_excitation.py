"""Squeeze-and-excitation: alone, within the fused blocks, and found by optimize."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.library import opcheck

import fastconv
from fastconv import reference
from fastconv.ops import (
    SqueezeExcitation,
    inverted_residual,
    pack_pointwise_weight,
    separable_conv2d,
    squeeze_excitation,
)
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

BLOCK = torch.ops.fastconv.inverted_residual.default
SEPARABLE = torch.ops.fastconv.separable_conv2d.default

# batch, in, hidden, squeezed, out, height, width: about a panel (32 channels), a unit of the
# reduction (128), a tile (7 columns, 2 rows), a strip (56 pixels); gates into the weights where the
# map has at least as many pixels as there are channels of the output, else into the map.
SHAPES = [
    (2, 5, 33, 3, 7, 9, 11),
    (1, 16, 96, 4, 24, 14, 14),
    (1, 8, 50, 49, 8, 30, 29),
    (1, 40, 160, 10, 80, 7, 7),
    (5, 8, 16, 1, 16, 1, 3),
    (1, 1, 1, 1, 1, 5, 5),
    (3, 3, 17, 100, 49, 17, 6),
    (2, 4, 32, 8, 4, 3, 113),
]
WINDOWS = [(3, 1, 1), (3, 2, 1), (5, 2, (1, 2, 3, 0)), (7, 1, 3), (4, 1, (1, 1, 2, 2))]
GATES = ["sigmoid", "hardsigmoid"]


def make(shape, kernel=3, dtype=torch.float32, layout=channels_last):
    """The seven tensors of a block and the four of its squeeze-and-excitation."""
    batch, channels, hidden, squeezed, out, height, width = shape
    tensors = (
        torch.randn(hidden, channels, 1, 1) / channels**0.5,
        torch.randn(hidden) / 4,
        torch.randn(hidden, 1, kernel, kernel) / kernel,
        torch.randn(hidden) / 4,
        torch.randn(out, hidden, 1, 1) / hidden**0.5,
        torch.randn(out),
        torch.randn(squeezed, hidden, 1, 1) / hidden**0.5,
        torch.randn(squeezed),
        torch.randn(hidden, squeezed, 1, 1) / squeezed**0.5,
        torch.randn(hidden),
    )
    x = layout(torch.randn(batch, channels, height, width).to(dtype))
    return x, *(t.to(dtype) for t in tensors)


def run(tensors, stride=1, padding=1, activation="silu", residual=False, names=("relu", "sigmoid")):
    squeeze = SqueezeExcitation(*tensors[7:], *names)
    return inverted_residual(*tensors[:7], stride, padding, activation, residual, squeeze)


def assert_right(y, tensors, stride, padding, activation, residual, names):
    padding = padding if isinstance(padding, tuple) else (padding,) * 4
    doubles = [None if t is None else t.double() for t in tensors]
    window = (stride, stride), padding
    expected = reference.inverted_residual(*doubles, *window, activation, residual, *names)
    if y.dtype in (torch.bfloat16, torch.float16):  # the parts round what is hidden
        error = (y.double() - expected).abs().max()
        assert error <= 16 * torch.finfo(y.dtype).eps * max(expected.abs().max(), 1)
    else:
        terms = tensors[0].shape[1] + tensors[3][0].numel() + 2 * tensors[3].shape[0]
        assert_close(y, expected, terms, scale=8)


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values(shape, window, name):
    kernel, stride, padding = window
    tensors = make(shape, kernel)
    residual = stride == 1 and shape[1] == shape[4]
    for gate, count in zip(GATES, (1, 2), strict=True):
        settings = (stride, padding, "relu6", residual, ("silu", gate))
        with isa(name), threads(count):
            y = run(tensors, *settings)
        assert_right(y, tensors, *settings)
        assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dtypes_and_layouts(layout, dtype, name):
    tensors = make((2, 6, 40, 5, 6, 9, 8), 3, dtype, layout)
    with isa(name):
        y = run(tensors, residual=True)
    assert_right(y, tensors, 1, 1, "silu", True, ("relu", "sigmoid"))
    raw = BLOCK(*tensors, (1, 1), (1, 1, 1, 1), "silu", True, "relu", "sigmoid")
    assert y.stride() == raw.stride()


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_and_missing_biases(activation, name):
    x, *weights = make((2, 12, 40, 10, 10, 9, 9))
    for biases in (range(0), (1, 3, 7), (5, 9)):
        some = (x, *(w if i % 2 == 0 or i in biases else None for i, w in enumerate(weights)))
        with isa(name):
            y = run(some, activation=activation, names=(activation, "hardsigmoid"))
        assert_right(y, some, 1, 1, activation, False, (activation, "hardsigmoid"))


@pytest.mark.parametrize("shape", SHAPES[:4])
@pytest.mark.parametrize("name", ISAS)
def test_without_expansion(shape, name):
    x, _, _, *weights = make(shape)
    x = channels_last(torch.randn(shape[0], shape[2], *shape[5:]))
    squeeze = SqueezeExcitation(*weights[4:], "silu", "sigmoid")
    residual = channels_last(torch.randn(shape[0], shape[4], *shape[5:]))
    with isa(name):
        y = separable_conv2d(x, *weights[:4], residual, 1, 1, 1, "relu", "hardswish", squeeze)
    doubles = [t.double() for t in (x, *weights[:4], residual, *weights[4:])]
    window = (1, 1), (1, 1, 1, 1), (1, 1)
    names = ("relu", "hardswish", "silu", "sigmoid")
    expected = reference.separable_conv2d(*doubles, *window, *names)
    assert_close(y, expected, 9 + 2 * shape[2], scale=8)


def test_variants():
    tensors = make((2, 8, 40, 4, 8, 7, 7))
    vectors = fastconv._C.isa() != "scalar"
    with reaches("inverted_residual.squeeze" if vectors else "inverted_residual.parts"):
        run(tensors)
    with reaches("inverted_residual.parts"):
        run(make((2, 8, 40, 4, 8, 7, 7), layout=contiguous))


def test_weights_of_any_strides():
    x, *weights = make((1, 20, 72, 6, 30, 9, 9))
    expected = run((x, *weights))
    packed = [pack_pointwise_weight(w) if w.dim() == 4 and i in (6, 8) else w
              for i, w in enumerate(weights)]  # fmt: skip
    torch.testing.assert_close(run((x, *packed)), expected)
    spread = torch.zeros(6, 80, 1, 1)[:, :72].copy_(weights[6])
    torch.testing.assert_close(run((x, *weights[:6], spread, *weights[7:])), expected)


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_same_bits_on_any_threads(batch):
    for shape in ((16, 96, 4, 16, 7, 7), (8, 48, 3, 24, 28, 28), (8, 40, 9, 70, 14, 14)):
        for stride in (1, 2):
            assert_same_bits_on_any_threads(partial(run, make((batch, *shape)), stride))
    x, _, _, *weights = make((batch, 40, 40, 9, 40, 7, 7))
    squeeze = SqueezeExcitation(*weights[4:])
    settings = (None, 1, 1, 1, "relu", "silu", squeeze)
    assert_same_bits_on_any_threads(partial(separable_conv2d, x, *weights[:4], *settings))


def test_nan_and_infinity_stay_in_their_image():
    tensors = make((3, 4, 40, 5, 4, 9, 9))
    tensors[0][0, 0, 3, 3], tensors[0][2, 1, 0, 0] = float("nan"), float("inf")
    y = run(tensors)
    assert y[0].isnan().all()
    torch.testing.assert_close(y[1:2], run((tensors[0][1:2], *tensors[1:])))


def test_the_parts_give_the_same():
    tensors = make((2, 8, 40, 4, 8, 14, 14))
    parts = run([t.requires_grad_() for t in tensors], residual=True)
    assert parts.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(run(tensors, residual=True), parts, rtol=1e-5, atol=1e-5)


def test_gradients():
    tensors = [t.requires_grad_() for t in make((2, 3, 5, 2, 3, 4, 4), dtype=torch.float64)]
    block = partial(run, residual=True, names=("silu", "sigmoid"))
    assert gradcheck(lambda *t: block(t), tensors)
    window = (1, 1), (1, 1, 1, 1)
    assert gradcheck(lambda *t: BLOCK(*t, *window, "silu", True, "silu", "sigmoid"), tensors)
    floats = [t.detach().float().requires_grad_() for t in tensors]
    for each in (floats, tensors):
        run(each, names=("silu", "sigmoid")).sum().backward()
    for ours, theirs in zip(floats, tensors, strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_opcheck(layout):
    x, *weights = make((2, 4, 6, 3, 4, 5, 5), layout=layout)
    names = ("relu", "hardsigmoid")
    opcheck(BLOCK, (x, *weights, (1, 1), (1, 1, 1, 1), "relu6", True, *names))
    grads = [w.requires_grad_() for w in weights]
    opcheck(BLOCK, (x, *grads, (1, 1), (1, 1, 1, 1), "silu", False, *names))
    x = layout(torch.randn(2, 6, 5, 5))
    window = (2, 2), (0, 0, 1, 1), (1, 1)
    opcheck(SEPARABLE, (x, *weights[2:6], None, *weights[6:], *window, "silu", None, *names))


def test_transforms_compile_and_autocast():
    x, *weights = make((4, 6, 20, 3, 6, 8, 8))
    expected = run((x, *weights))
    in_dims = (0, *(None for _ in weights))
    folded = torch.func.vmap(lambda *t: run(t), in_dims)(x.unflatten(0, (2, 2)), *weights)
    torch.testing.assert_close(folded.flatten(0, 1), expected, rtol=1e-5, atol=1e-5)
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled((x, *weights)), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert run((x, *weights)).dtype == torch.bfloat16


def test_unbatched_and_empty():
    x, *weights = make((1, 6, 20, 3, 6, 9, 9))
    torch.testing.assert_close(run((x[0], *weights)), run((x, *weights))[0])
    assert run((x[:0], *weights), 2).shape == (0, 6, 5, 5)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_shape(data):
    shape = [data.draw(st.integers(1, most)) for most in (3, 40, 140, 60, 70, 20, 30)]
    kernel = data.draw(st.sampled_from((3, 5)))
    tensors = make(shape, kernel, layout=data.draw(st.sampled_from(LAYOUTS)))
    names = tuple(data.draw(st.sampled_from(values)) for values in (ACTIVATIONS, GATES))
    activation, stride = data.draw(st.sampled_from(ACTIVATIONS)), data.draw(st.integers(1, 2))
    y = run(tensors, stride, kernel // 2, activation, False, names)
    assert_right(y, tensors, stride, kernel // 2, activation, False, names)


T = make((1, 4, 8, 2, 2, 5, 5))


@pytest.mark.parametrize(
    ("squeeze", "error", "message"),
    [
        ((None, *T[8:]), TypeError, "'squeeze.reduce_weight' must be Tensor"),
        ((T[7], 1.0, *T[9:]), TypeError, "'squeeze.reduce_bias' must be Tensor"),
        ((*T[7:], "relu", "tanh"), RuntimeError, "gate to be 'sigmoid' or 'hardsigmoid'"),
        ((*T[7:], "tanh"), RuntimeError, "got 'tanh'"),
        ((T[7][:, :3], *T[8:]), RuntimeError, r"weight of shape \(out_channels, 8, 1, 1\)"),
        ((*T[7:9], T[9][:, :1], T[10]), RuntimeError, r"weight of shape \(out_channels, 2, 1, 1\)"),
        ((T[7], T[8][:1], *T[9:]), RuntimeError, r"bias of shape \(2"),
        ((*T[7:10], T[10][:3]), RuntimeError, r"bias of shape \(8"),
        ((T[7].double(), *T[8:]), RuntimeError, "dtype of input"),
    ],
)
def test_bad_input(squeeze, error, message):
    with pytest.raises(error, match=message):
        inverted_residual(*T[:7], squeeze=SqueezeExcitation(*squeeze))


def test_half_of_the_weights_is_refused():
    for half in ((T[7], None, None, None), (None, None, T[9], None)):
        with pytest.raises(RuntimeError, match="together"):
            BLOCK(*T[:7], *half, (1, 1), (1, 1, 1, 1))


def test_layers():
    squeeze = fastconv.nn.SqueezeExcitation(24, 6, "silu", "hardsigmoid")
    layer = fastconv.nn.InvertedResidual(8, 8, 24, activation="hardswish", squeeze=squeeze)
    x = channels_last(torch.randn(2, 8, 9, 9))
    with torch.no_grad():
        parts = x + layer.project(squeeze(layer.depthwise(layer.expand(x))))
        torch.testing.assert_close(layer(x), parts)
        assert "gate='hardsigmoid'" in repr(layer)
        assert len(layer.state_dict()) == 10
        layer = fastconv.nn.SeparableConv2d(24, 8, 3, padding=1, squeeze=squeeze)
        x = channels_last(torch.randn(2, 24, 9, 9))
        torch.testing.assert_close(layer(x), layer.pointwise(squeeze(layer.depthwise(x))))
        expected = reference.squeeze_excitation(x, *squeeze.weights())
        torch.testing.assert_close(squeeze_excitation(x, squeeze.weights()), expected)
    with pytest.raises(RuntimeError, match="gate"):
        fastconv.nn.SqueezeExcitation(24, 6, gate="tanh")
