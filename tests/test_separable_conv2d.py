from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.library import opcheck

import fastconv
from fastconv import reference
from fastconv.ops import separable_conv2d
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
)

OP = torch.ops.fastconv.separable_conv2d.default
NO_SQUEEZE = (None,) * 4  # tests/test_squeeze_excitation.py has the blocks with one

# batch, channels, out, height, width: about a panel (32 channels), a tile of either convolution,
# a strip of rows; the last two write and read past the caches.
SHAPES = [
    (2, 33, 7, 9, 11),
    (1, 16, 24, 14, 14),
    (1, 50, 17, 30, 29),
    (1, 96, 40, 7, 7),
    (2, 16, 16, 1, 3),
    (1, 1, 1, 5, 5),
    (3, 7, 49, 17, 6),
]
LARGE = [(2, 48, 176, 112, 112), (3, 3, 5, 250, 240)]
WINDOWS = [  # kernel, stride, padding, dilation
    (3, 1, 1, 1),
    (3, 2, (0, 0, 1, 1), 1),
    (5, 1, 2, 1),
    (5, 2, (1, 2, 3, 0), 1),
    (7, 1, 3, 1),
    (7, 2, 3, 1),
    (3, 1, 2, 2),
    ((2, 3), (2, 1), (1, 2), 1),
]

# One row has no room for an unpadded kernel.
CASES = [(s, w) for s in SHAPES for w in WINDOWS if s[3] > 1 or w[2] != (0, 0, 1, 1)]


def make(shape, kernel=3, dtype=torch.float32, layout=channels_last, multiplier=1):
    """The five tensors of a call whose sums stay near one."""
    batch, channels, out, height, width = shape
    kernel = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    hidden = channels * multiplier
    weights = (
        torch.randn(hidden, 1, *kernel) / kernel[0],
        torch.randn(hidden) / 4,
        torch.randn(out, hidden, 1, 1) / hidden**0.5,
        torch.randn(out),
    )
    x = layout(torch.randn(batch, channels, height, width).to(dtype))
    return x, *(w.to(dtype) for w in weights)


def pair(value):
    return value if isinstance(value, tuple) else (value, value)


def assert_right(y, tensors, residual, stride, padding, dilation, *activations):
    padding = pair(padding) * 2 if len(pair(padding)) == 2 else padding
    doubles = (None if t is None else t.double() for t in (*tensors, residual))
    window = pair(stride), padding, pair(dilation)
    expected = reference.separable_conv2d(*doubles, *NO_SQUEEZE, *window, *activations)
    terms = tensors[1][0].numel() + tensors[3].shape[1] + 1
    if y.dtype in (torch.bfloat16, torch.float16):  # the parts round what is hidden
        error = (y.double() - expected).abs().max()
        assert error <= 16 * torch.finfo(y.dtype).eps * max(expected.abs().max(), 1)
    else:
        assert_close(y, expected, terms, scale=8)


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize(("shape", "window"), CASES)
def test_values(shape, window, name):
    kernel, *window = window
    tensors = make(shape, kernel)
    with isa(name):
        plain = separable_conv2d(*tensors, None, *window, "relu6", None)
        residual = channels_last(torch.randn_like(plain))
        y = separable_conv2d(*tensors, residual, *window, "relu", "relu6")
    assert_right(plain, tensors, None, *window, "relu6", None)
    assert_right(y, tensors, residual, *window, "relu", "relu6")
    assert y.stride() == channels_last(y).stride() or 1 in y.shape


@pytest.mark.parametrize("shape", LARGE)
def test_large(shape):
    tensors = make(shape)
    for activation in ("relu", "silu"):
        y = separable_conv2d(*tensors, None, 1, 1, 1, "relu", activation)
        assert_right(y, tensors, None, 1, 1, 1, "relu", activation)


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dtypes_and_layouts(layout, dtype, name):
    tensors = make((2, 40, 12, 9, 8), 3, dtype, layout)
    residual = layout(torch.randn(2, 12, 9, 8).to(dtype))
    with isa(name):
        y = separable_conv2d(*tensors, residual, 1, 1)
    assert_right(y, tensors, residual, 1, 1, 1, "relu", "relu")


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("second", ACTIVATIONS)
@pytest.mark.parametrize("first", ACTIVATIONS)
def test_activations_and_missing_biases(first, second, name):
    for size in (5, 16):
        x, filters, bias, matrix, second_bias = make((1, 40, 21, size, size))
        for tensors in ((x, filters, None, matrix, second_bias), (x, filters, bias, matrix, None)):
            with isa(name):
                y = separable_conv2d(*tensors, None, 1, 1, 1, first, second)
            assert_right(y, tensors, None, 1, 1, 1, first, second)


@pytest.mark.parametrize("name", ISAS)
def test_silu_at_its_ends(name):
    ends = (-1e38, -1e4, -104, -89, -88, -87, -20, -1e-30, 0, 1e-30, 20, 88, 1e4, 1e38)
    x = torch.tensor((*ends, float("inf"), float("nan"))).reshape(-1, 1, 1, 1)
    weights = torch.ones(1, 1, 3, 3), None, torch.ones(1, 1, 1, 1)
    with isa(name):
        y = separable_conv2d(channels_last(x), *weights, None, None, 1, 1, 1, None, "silu")
        z = torch.cat([separable_conv2d(one[None], *weights, None, None, 1, 1, 1, None, "silu")
                       for one in x])  # fmt: skip
    expected = torch.nn.functional.silu(x.double())
    for ours in (y, z):
        torch.testing.assert_close(ours.double(), expected, rtol=4e-6, atol=1e-35, equal_nan=True)


def test_variants_and_multipliers():
    calls = {"rows": make((2, 40, 8, 7, 7)), "channels": make((1, 40, 8, 7, 7))}
    if fastconv._C.isa() != "scalar":
        for variant, tensors in calls.items():
            with reaches(f"separable_conv2d.{variant}"):
                separable_conv2d(*tensors, padding=1)
    tensors = make((1, 5, 8, 7, 7), multiplier=2)
    with reaches("separable_conv2d.parts"):
        y = separable_conv2d(*tensors, padding=1)
    assert_right(y, tensors, None, 1, 1, 1, "relu", "relu")


@pytest.mark.parametrize("shape", [(1, 96, 96, 7, 7), (1, 48, 24, 28, 28), (3, 40, 8, 14, 14)])
def test_same_bits_on_any_threads(shape):
    assert_same_bits_on_any_threads(partial(separable_conv2d, *make(shape), padding=1))


def test_unbatched_and_empty():
    x, *weights = make((1, 20, 6, 9, 9))
    residual = torch.randn(1, 6, 9, 9)
    y = separable_conv2d(x[0], *weights, residual[0], 1, 1)
    torch.testing.assert_close(y, separable_conv2d(x, *weights, residual, 1, 1)[0])
    assert separable_conv2d(x[:0], *weights, None, 2, 1).shape == (0, 6, 5, 5)


def test_gradients():
    tensors = [t.requires_grad_() for t in make((2, 3, 3, 4, 4), dtype=torch.float64)]
    residual = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    block = partial(separable_conv2d, padding=1, activation="silu", pointwise_activation=None)
    assert gradcheck(block, (*tensors, residual))

    def raw(*tensors):
        return OP(*tensors, *NO_SQUEEZE, (1, 1), (1, 1, 1, 1), (1, 1), "silu")

    assert gradcheck(raw, (*tensors, residual))
    assert gradcheck(lambda *t: raw(*t, None), tuple(tensors))


@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_opcheck(layout):
    x, *weights = make((2, 6, 4, 5, 5), layout=layout)
    residual = layout(torch.randn(2, 4, 5, 5))
    opcheck(OP, (x, *weights, residual, *NO_SQUEEZE, (1, 1), (1, 1, 1, 1), (1, 1), "relu6", "relu"))
    opcheck(OP, (x, *weights, None, *NO_SQUEEZE, (2, 2), (0, 0, 1, 1), (1, 1), None, "silu"))
    weights = [w.requires_grad_() for w in weights]
    opcheck(OP, (x, *weights, None, *NO_SQUEEZE, (1, 1), (1, 1, 1, 1), (1, 1), "silu", None))


def test_transforms_compile_and_autocast():
    x, *weights = make((4, 20, 6, 8, 8))
    block = partial(separable_conv2d, padding=1)
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
            separable_conv2d(*tensors, None, 2, 1)
        return counter.get_total_flops()

    tensors = make((2, 20, 10, 9, 8))
    fused = flops(tensors)
    assert fused == flops([t.requires_grad_() for t in tensors]) == 2 * 2 * 20 * 5 * 4 * (9 + 10)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_shape(data):
    shape = [data.draw(st.integers(1, most)) for most in (3, 110, 70)]
    shape += [data.draw(st.integers(3, most)) for most in (20, 30)]  # room for every window
    kernel, *window = data.draw(st.sampled_from([w for w in WINDOWS if w[3] == 1]))
    tensors = make(shape, kernel, layout=data.draw(st.sampled_from(LAYOUTS)))
    activation = data.draw(st.sampled_from(ACTIVATIONS))
    y = separable_conv2d(*tensors, None, *window, activation, "relu")
    assert_right(y, tensors, None, *window, activation, "relu")


X, D, P = torch.ones(1, 4, 5, 5), torch.ones(4, 1, 3, 3), torch.ones(2, 4, 1, 1)
X = channels_last(X)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1, D, None, P, None), TypeError, "argument 'input' must be Tensor, not int"),
        ((X, D, None, None, None), TypeError, "argument 'pointwise_weight' must be Tensor"),
        ((X, D, None, P, None, 1.0), TypeError, "argument 'residual' must be Tensor"),
        ((X, D, None, P, None, None, 1.5), TypeError, "argument 'stride' must be int"),
        ((X, D[:3], None, P, None), RuntimeError, r"weight of shape \(4"),
        ((X, D, None, P[:, :3], None), RuntimeError, r"\(out_channels, 4, 1, 1\)"),
        ((X, D, torch.ones(3), P, None), RuntimeError, r"bias of shape \(4\)"),
        ((X, D, None, P, torch.ones(3)), RuntimeError, r"bias of shape \(2\)"),
        ((X, D, None, P, None, X), RuntimeError, r"residual of shape \(1, 2, 3, 3\)"),
        ((X, D, None, P, None, X[:, :2, :3, :3].double()), RuntimeError, "dtype of input"),
        ((X, D.double(), None, P, None), RuntimeError, "dtype of input"),
        ((X, D, None, P, None, None, 0), RuntimeError, "stride"),
        ((X, D, None, P, None, None, 1, 0, 1, "tanh"), RuntimeError, "got 'tanh'"),
        ((X, D, None, P, None, None, 1, 0, 1, None, "tanh"), RuntimeError, "got 'tanh'"),
        ((X[0, 0], D, None, P, None), RuntimeError, "4 dimensions"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        separable_conv2d(*arguments)


def test_layer():
    layer = fastconv.nn.SeparableConv2d(8, 12, stride=2, padding=1, pointwise_activation="silu")
    x, residual = channels_last(torch.randn(2, 8, 9, 9)), channels_last(torch.randn(2, 12, 5, 5))
    with torch.no_grad():
        fused = layer(x, residual)
        torch.testing.assert_close(fused, layer.pointwise(layer.depthwise(x), residual))
    torch.testing.assert_close(layer(x, residual).detach(), fused, rtol=1e-5, atol=1e-5)
    assert len(layer.state_dict()) == 4
