import itertools
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

import fastconv
from fastconv import reference
from fastconv.ops import depthwise_conv2d, pack_depthwise_weight
from fastconv.ops._window import edges, pair
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
)

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")

# Below, at and above a vector (4, 8, 16 lanes), a tile (7 columns, 4 or 7 rows) and a unit (256
# channels, 28 rows).
CHANNELS_LAST = [(1, 5, 6), (3, 7, 7), (8, 8, 15), (17, 3, 8), (33, 9, 7), (257, 2, 3)]
CONTIGUOUS = [(2, 1, 1), (2, 7, 8), (1, 8, 16), (3, 6, 17), (1, 29, 33), (2, 15, 40)]
CONTIGUOUS += [(8, 4, 5), (17, 9, 18), (33, 31, 7)]  # planes by the vector, rows by the strip
SIZES = [(s, channels_last) for s in CHANNELS_LAST] + [(s, contiguous) for s in CONTIGUOUS]
# kernel, stride, padding, dilation, multiplier
WINDOWS = [
    (1, 1, 0, 1, 1),
    (2, 1, (0, 0, 1, 1), 1, 1),
    (3, 1, 1, 1, 1),
    (3, 1, 4, 1, 1),  # the input's gradient has negative padding
    (3, 2, 1, 1, 1),
    (3, 2, (0, 0, 1, 1), 1, 1),
    (3, 3, (1, 2), 1, 1),
    (3, 1, 2, 2, 1),
    (3, 2, 3, 3, 1),
    (4, 3, 2, 2, 1),
    (5, 1, "same", 1, 1),
    (5, 2, 2, 1, 1),
    (6, 1, "same", 1, 1),
    (7, 1, 3, 1, 1),
    (7, 2, 3, 1, 1),
    (9, 1, 4, 1, 1),
    (31, 1, 15, 1, 1),
    ((3, 5), (2, 1), (1, 2), (1, 2), 1),
    ((1, 4), (1, 2), (0, 3), 1, 1),
    (3, 1, 1, 1, 2),
    (3, 2, 1, 1, 3),
    (5, 1, 2, 1, 2),
    ((2, 3), 1, 2, 2, 5),
]


def tensors(size, window, layout=contiguous, dtype=torch.float32, batch=2):
    """input, weight and bias of a window over (channels, height, width)."""
    kernel, _, _, _, multiplier = window
    kernel = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    channels = size[0] * multiplier
    x = layout(torch.randn(batch, *size).to(dtype))
    return x, torch.randn(channels, 1, *kernel).to(dtype), torch.randn(channels).to(dtype)


def expected(x, w, b, stride=1, padding=0, dilation=1, activation=None):
    """The reference in float64, differentiable, with the public function's arguments."""
    if isinstance(padding, tuple) and len(padding) == 4:
        top, left, bottom, right = padding
        x, padding = F.pad(x, (left, right, top, bottom)), 0
    z = F.conv2d(x, w, b, stride, padding, dilation, groups=x.shape[1])
    return reference.activate(z, activation)


def fits(size, window):
    try:
        expected(*tensors(size, window, batch=1), 1, *window[2:4])
    except RuntimeError:
        return False
    return True


CASES = [(*s, w) for s, w in itertools.product(SIZES, WINDOWS) if fits(s[0], w)]


def double(*values):
    return [None if v is None else v.detach().double().requires_grad_() for v in values]


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize(("size", "layout", "window"), CASES)
def test_values_and_gradients(size, layout, window, name):
    x, w, b = tensors(size, window, layout)
    wide = double(x, w, b)
    leaves = [t.requires_grad_() for t in (x, w, b)]
    with isa(name):
        y = depthwise_conv2d(x, w, b, *window[1:4])
        y.sum().backward()  # the gradient has stride 0
    z = expected(*wide, *window[1:4])
    z.sum().backward()
    taps, outputs = w[0].numel(), y[0, 0].numel() * len(x)
    assert_close(y.detach(), z.detach(), terms=taps, scale=10)
    for leaf, leaf64, terms in zip(leaves, wide, (taps * window[4], outputs, outputs), strict=True):
        assert_close(leaf.grad, leaf64.grad, terms=terms, scale=5 + terms**0.5)
        assert leaf.grad.stride() == leaf.stride() or leaf is x
    assert x.is_contiguous() or y.stride() == channels_last(y).stride()


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("window", [w for w in WINDOWS if w[0] in (3, 5, 7, (3, 5))])
def test_dtypes(window, layout, dtype, name):
    x, w, b = tensors((19, 9, 18), window, layout, dtype)
    wide = double(x, w, b)
    leaves = [t.requires_grad_() for t in (x, w, b)]
    with isa(name):
        y = depthwise_conv2d(x, w, b, *window[1:4])
        g = torch.randn_like(y)
        y.backward(g)
    z = expected(*wide, *window[1:4])
    z.backward(g.double())
    assert_close(y.detach(), z.detach(), terms=w[0].numel(), scale=10)
    for leaf, leaf64 in zip(leaves, wide, strict=True):
        assert leaf.grad.dtype == dtype
        assert_close(leaf.grad, leaf64.grad, terms=9 * 18, scale=10)


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("window", [WINDOWS[2], WINDOWS[8]])
def test_activations(window, layout, activation, name):
    x, w, b = tensors((18, 9, 8), window, layout)
    for bias in (b, None):
        wide = double(x, w, bias)
        leaves = [t.detach().requires_grad_() for t in (x, w, bias) if t is not None]
        with isa(name):
            y = depthwise_conv2d(*leaves[:2], *(leaves[2:] or [None]), *window[1:4], activation)
            y.sum().backward()
        z = expected(*wide, *window[1:4], activation)
        z.sum().backward()
        assert_close(y.detach(), z.detach(), terms=16, scale=10)
        for leaf, leaf64 in zip(leaves, (t for t in wide if t is not None), strict=True):
            assert_close(leaf.grad, leaf64.grad, terms=200, scale=10)


@pytest.mark.parametrize("input_layout", LAYOUTS)
@pytest.mark.parametrize("grad_layout", LAYOUTS)
def test_any_strides(input_layout, grad_layout):
    x, w, b = tensors((6, 5, 7), WINDOWS[2], input_layout)
    wide = double(x, w, b)
    leaves = [t.requires_grad_() for t in (x, w, b)]
    y = depthwise_conv2d(x, w, b, padding=1)
    g = grad_layout(torch.randn(2, 6, 5, 7))
    y.backward(g)
    z = expected(*wide, 1, 1)
    z.backward(g.double())
    assert_close(y.detach(), z.detach(), terms=9, scale=10)
    for leaf, leaf64 in zip(leaves, wide, strict=True):
        assert_close(leaf.grad, leaf64.grad, terms=70, scale=10)
    layout = channels_last if input_layout is channels_last else contiguous
    assert y.stride() == layout(y).stride()


def test_weights_of_any_strides_and_packed():
    x, w, b = tensors((24, 9, 9), WINDOWS[2], channels_last)
    y, z = (depthwise_conv2d(t, w, b, padding=1) for t in (x, contiguous(x)))
    torch.testing.assert_close(z, contiguous(y))
    packed = pack_depthwise_weight(w)
    assert torch.equal(packed, w)
    assert packed.stride()[0] == 1
    plain = w.detach().requires_grad_()
    depthwise_conv2d(x, plain, b, padding=1).sum().backward()
    for other in (packed, torch.stack([w, w], -1)[..., 0], w.transpose(2, 3).contiguous().mT):
        assert torch.equal(depthwise_conv2d(x, other, b, padding=1), y)
        assert torch.equal(depthwise_conv2d(contiguous(x), other, b, padding=1), z)
        leaf = other.detach().requires_grad_()
        depthwise_conv2d(x, leaf, b, padding=1).sum().backward()
        torch.testing.assert_close(leaf.grad, plain.grad)
        assert leaf.grad.stride() == torch.empty_like(leaf).stride()


def test_unbatched():
    for layout in (contiguous, channels_last):
        x, w, b = tensors((9, 8, 7), WINDOWS[2], layout, batch=1)
        y = depthwise_conv2d(x, w, b, padding=1)
        single = depthwise_conv2d(x[0], w, b, padding=1)
        assert torch.equal(single, y[0])
        assert single.stride() == y[0].stride()


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("window", WINDOWS)
def test_taps_in_the_padding_are_skipped(window, layout, name):
    if not fits((18, 9, 11), window):
        pytest.skip("kernel larger than the image")
    x, w, b = tensors((18, 9, 11), window, layout)
    w[::3, :, 0, 0] = float("inf")
    w[1::3, :, -1, -1] = float("nan")
    x[0, 4, 3, 5] = float("inf")
    x[1, 5, 0, 0] = float("nan")
    ones = torch.ones_like(x)
    mask = expected(ones, w.isfinite().logical_not().float(), None, *window[1:4])
    with isa(name):
        clean = depthwise_conv2d(ones, w, b, *window[1:4])
        y = depthwise_conv2d(x, w, b, *window[1:4])
    assert torch.equal(clean.isfinite(), mask == 0)
    theirs = expected(ones, w, b, *window[1:4])
    if torch.equal(theirs.isfinite(), mask == 0):  # torch's kernel of this shape skips too
        assert torch.equal(y.isnan(), expected(x, w, b, *window[1:4]).isnan())


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("window", WINDOWS)
def test_gradients_skip_the_padding(window, layout, name):
    if not fits((18, 9, 11), window):
        pytest.skip("kernel larger than the image")
    x, w, b = tensors((18, 9, 11), window, layout)
    arguments = reference_arguments(w, window)
    g = torch.ones_like(depthwise_conv2d(x, w, b, *window[1:4]))
    ones, bad = torch.ones_like(x), w.clone()
    bad[:, :, 0, 0] = float("inf")
    met = reference.depthwise_conv2d_backward_input(g, x, (bad == float("inf")).float(), *arguments)
    g_bad = g.clone()
    g_bad[:, :, 0, 0] = float("inf")
    only = (g_bad == float("inf")).float()
    met_weight, _ = reference.depthwise_conv2d_backward_weight(only, ones, w, *arguments)
    with isa(name):
        grad_input = torch.ops.fastconv.depthwise_conv2d_backward_input(g, x, bad, *arguments)
        grad_weight, grad_bias = torch.ops.fastconv.depthwise_conv2d_backward_weight(
            g_bad, ones, w, *arguments
        )
    assert torch.equal(grad_input.isfinite(), met == 0)
    assert torch.equal(grad_weight.isfinite(), met_weight == 0)
    assert grad_bias.isinf().all()


def reference_arguments(w, window):
    """stride, padding and dilation as the raw ops take them."""
    stride, dilation = pair("", "", window[1]), pair("", "", window[3])
    return stride, edges("", window[2], w.shape[2:], stride, dilation), dilation


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("window", [WINDOWS[4], WINDOWS[13], WINDOWS[15], WINDOWS[18], WINDOWS[20]])
def test_same_bits_on_any_threads(window, layout):
    x, w, b = tensors((40, 33, 35), window, layout)
    arguments = reference_arguments(w, window)
    y = depthwise_conv2d(x, w, b, *window[1:4])
    g, raw = torch.randn_like(y), torch.ops.fastconv
    assert_same_bits_on_any_threads(lambda: depthwise_conv2d(x, w, b, *window[1:4], "silu"))
    backward = partial(raw.depthwise_conv2d_backward, g, x, w, *arguments)
    assert_same_bits_on_any_threads(backward)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_empty_batch(layout):
    x, w, b = (t.requires_grad_() for t in tensors((4, 5, 6), WINDOWS[2], layout, batch=0))
    y = depthwise_conv2d(x, w, b, padding=1, activation="silu")
    assert y.shape == (0, 4, 5, 6)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert not w.grad.any()
    assert not b.grad.any()


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("window", [WINDOWS[1], WINDOWS[4], WINDOWS[20]])
@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_first_and_second_derivatives(layout, window, activation):
    x, w, b = tensors((2, 4, 5), window, layout, torch.float64, batch=1)
    leaves = tuple(t.requires_grad_() for t in (x, w, b))
    assert gradcheck(depthwise_conv2d, (*leaves, *window[1:4], activation))
    assert gradgradcheck(depthwise_conv2d, (*leaves, *window[1:4], activation))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(layout, requires_grad):
    window = (3, (2, 1), (1, 0, 2, 1), (1, 2), 2)
    x, w, b = tensors((4, 5, 6), window, layout)
    x, w, b = (t.requires_grad_(requires_grad) for t in (x, w, b))
    raw = torch.ops.fastconv
    opcheck(raw.depthwise_conv2d.default, (x, w, b, *window[1:4], "relu6"))
    opcheck(raw.depthwise_conv2d.default, (x, w, None, *window[1:4], "silu"))
    g = torch.randn_like(raw.depthwise_conv2d(x.detach(), w.detach(), None, *window[1:4]))
    for which in ("", "_input", "_weight"):
        opcheck(getattr(raw, f"depthwise_conv2d_backward{which}").default, (g, x, w, *window[1:4]))


@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 12), st.integers(1, 40)),
    kernel=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.tuples(*[st.integers(0, 9)] * 4),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    multiplier=st.integers(1, 3),
    layout=st.sampled_from(LAYOUTS),
)
@settings(max_examples=150, deadline=None)
def test_drawn_windows(size, kernel, stride, padding, dilation, multiplier, layout):
    x, w, b = tensors(size, (kernel, 1, 0, 1, multiplier), layout)
    wide = double(x, w, b)
    leaves = [t.requires_grad_() for t in (x, w, b)]
    try:
        z = expected(*wide, stride, padding, dilation)
    except RuntimeError:
        with pytest.raises(RuntimeError, match="kernel no larger"):
            depthwise_conv2d(x, w, b, stride, padding, dilation)
        return
    y = depthwise_conv2d(x, w, b, stride, padding, dilation)
    g = torch.randn_like(y)
    y.backward(g)
    z.backward(g.double())
    assert_close(y.detach(), z.detach(), terms=w[0].numel(), scale=10)
    for leaf, leaf64 in zip(leaves, wide, strict=True):
        assert_close(leaf.grad, leaf64.grad, terms=500, scale=10)


def test_vmap():
    x, w, b = torch.randn(3, 2, 4, 5, 5), torch.randn(4, 1, 3, 3), torch.randn(4)
    each = torch.stack([depthwise_conv2d(x[i], w, b, 1, 1) for i in range(3)])
    mapped = torch.func.vmap(lambda x: depthwise_conv2d(x, w, b, 1, 1))
    torch.testing.assert_close(mapped(x), each)
    torch.testing.assert_close(mapped(x[0]), each[0])
    many = torch.func.vmap(lambda x, w: depthwise_conv2d(x, w, b, 1, 1))(x, torch.stack([w] * 3))
    torch.testing.assert_close(many, each)


def test_autocast_and_flops():
    x, w, b = tensors((4, 5, 6), WINDOWS[2])
    with torch.autocast("cpu", torch.bfloat16):
        assert depthwise_conv2d(x, w, b, padding=1).dtype == torch.bfloat16
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        depthwise_conv2d(x.requires_grad_(), w.requires_grad_(), b, padding=1).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 9 * x.numel()


ONES = (torch.ones(1, 4, 5, 5), torch.ones(4, 1, 3, 3))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1, ONES[1]), TypeError, "argument 'input' must be Tensor, not int"),
        ((ONES[0], None), TypeError, "argument 'weight' must be Tensor, not NoneType"),
        ((*ONES, 1.0), TypeError, "argument 'bias' must be Tensor, not float"),
        ((*ONES, None, 1.5), TypeError, "argument 'stride' must be int or tuple of ints"),
        ((*ONES, None, (1.5, 1)), TypeError, "must be int or tuple of ints, not float"),
        ((*ONES, None, (1, 1, 1)), RuntimeError, "expected stride of one or two"),
        ((*ONES, None, 0), RuntimeError, "expected stride"),
        ((*ONES, None, 1, -1), RuntimeError, "expected padding"),
        ((*ONES, None, 1, 2**40), RuntimeError, "expected padding"),
        ((*ONES, None, 1, "full"), RuntimeError, "got 'full'"),
        ((*ONES, None, 2, "same"), RuntimeError, "padding='same' wants stride 1"),
        ((*ONES, None, 1, 0, 0), RuntimeError, "expected dilation"),
        ((*ONES, None, 1, 0, 3), RuntimeError, "kernel no larger"),
        ((*ONES, None, 1, 0, 1, "tanh"), RuntimeError, "got 'tanh'"),
        ((*ONES, torch.ones(3)), RuntimeError, r"expected bias of shape \(4\), got \(3\)"),
        ((ONES[0], torch.ones(6, 1, 3, 3)), RuntimeError, "expected weight of shape"),
        ((ONES[0], torch.ones(4, 1, 0, 3)), RuntimeError, "expected weight of shape"),
        ((ONES[0], torch.ones(4, 3)), RuntimeError, "expected weight with 4 dimensions"),
        ((torch.ones(5, 5), ONES[1]), RuntimeError, "expected input with 4 dimensions"),
        ((ONES[0].double(), ONES[1]), RuntimeError, "expected weight of the dtype of input"),
        ((*ONES, torch.ones(4).double()), RuntimeError, "expected bias of the dtype of input"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        depthwise_conv2d(*arguments)


def test_layer():
    torch.manual_seed(0)
    layer = fastconv.nn.DepthwiseConv2d(6, 3, 2, 1, multiplier=2, activation="relu6")
    torch.manual_seed(0)  # the same initialisation
    theirs = torch.nn.Conv2d(6, 12, 3, 2, 1, groups=6)
    assert repr(layer) == repr(theirs).replace("Conv2d", "DepthwiseConv2d").replace(
        "groups=6)", "groups=6, activation='relu6')"
    )
    assert layer.state_dict().keys() == theirs.state_dict().keys()
    assert torch.equal(layer.weight, theirs.weight)
    assert torch.equal(layer.bias, theirs.bias)
    x = torch.randn(2, 6, 9, 9)
    torch.testing.assert_close(layer(x), F.relu6(theirs(x)))
    options = {"padding": 1, "padding_mode": "circular", "bias": False}
    wrapped = fastconv.nn.DepthwiseConv2d(6, 3, **options)
    theirs = torch.nn.Conv2d(6, 6, 3, groups=6, **options)
    theirs.load_state_dict(wrapped.state_dict())
    torch.testing.assert_close(wrapped(x), theirs(x))
