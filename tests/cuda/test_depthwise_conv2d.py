"""depthwise_conv2d and its gradients on the CUDA kernels, as the CPU runs them."""

import pytest
import torch

from fastconv import _C, reference
from fastconv.ops import depthwise_conv2d, pack_depthwise_weight
from tests.cuda.emulator import ORDERS, emulated, launches, recorded
from tests.helpers import (
    ACTIVATIONS,
    DTYPES,
    LAYOUTS,
    assert_close,
    channels_last,
    contiguous,
)
from tests.test_depthwise_conv2d import (
    WINDOWS,
    double,
    expected,
    fits,
    reference_arguments,
    tensors,
)

BOTH = pytest.mark.parametrize("layout", [contiguous, channels_last])


def each_that_fits(*sizes):
    """Every window of WINDOWS over every image that is no smaller."""
    pairs = [(size, window) for size in sizes for window in WINDOWS if fits(size, window)]
    return pytest.mark.parametrize(("size", "window"), pairs)


def apart(g, x, w, window):
    """Each gradient by an op of its own, not both in one pass."""
    raw, arguments = torch.ops.fastconv, reference_arguments(w, window)
    grad_input = raw.depthwise_conv2d_backward_input(g, x, w, *arguments)
    return grad_input, *raw.depthwise_conv2d_backward_weight(g, x, w, *arguments)


def check(size, window, layout, dtype=torch.float32, activation=None, together=True, **emulation):
    """Values and all gradients against float64."""
    x, w, b = tensors(size, window, layout, dtype)
    wide = double(x, w, b)
    leaves = [t.requires_grad_() for t in (x, w, b)]
    with emulated(**emulation):
        y = depthwise_conv2d(x, w, b, *window[1:4], activation)
        g = torch.randn_like(y)
        if together:
            y.backward(g)
        else:
            with torch.no_grad():
                x.grad, w.grad, b.grad = apart(g, x, w, window)
    z = expected(*wide, *window[1:4], activation)
    z.backward(g.double())
    taps, outputs = w[0].numel(), y[0, 0].numel() * len(x)
    assert y.stride() == layout(y).stride()
    assert_close(y.detach(), z.detach(), terms=taps, scale=10)
    for leaf, leaf64, terms in zip(leaves, wide, (taps * window[4], outputs, outputs), strict=True):
        assert leaf.grad.dtype == dtype
        assert_close(leaf.grad, leaf64.grad, terms=terms, scale=5 + terms**0.5)


@BOTH
@each_that_fits((3, 9, 18), (17, 7, 5), (40, 2, 3))
def test_values_and_gradients(size, window, layout):
    check(size, window, layout)


@BOTH
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [w for w in WINDOWS if w[0] in (3, 5, 7, (3, 5))])
def test_dtypes(window, dtype, layout):
    check((34, 9, 11), window, layout, dtype)


@BOTH
@pytest.mark.parametrize("activation", ACTIVATIONS[1:])
def test_activations(activation, layout):
    check((18, 9, 8), WINDOWS[2], layout, activation=activation)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("grad_layout", LAYOUTS)
def test_any_strides(layout, grad_layout):
    x, w, b = tensors((6, 5, 7), WINDOWS[2], layout)
    wide = double(x, w, b)
    leaves = [t.requires_grad_() for t in (x, w, b)]
    g = grad_layout(torch.randn(2, 6, 5, 7))
    with emulated():
        y = depthwise_conv2d(x, w, b, padding=1)
        y.backward(g)
    z = expected(*wide, 1, 1)
    z.backward(g.double())
    assert_close(y.detach(), z.detach(), terms=9, scale=10)
    for leaf, leaf64 in zip(leaves, wide, strict=True):
        assert_close(leaf.grad, leaf64.grad, terms=70, scale=10)


@BOTH
def test_weights_of_any_strides(layout):
    x, w, b = tensors((24, 9, 9), WINDOWS[2], layout)
    with emulated():
        y = depthwise_conv2d(x, w, b, padding=1)
        for other in (pack_depthwise_weight(w), w.transpose(2, 3).contiguous().mT):
            leaf = other.detach().requires_grad_()
            assert torch.equal(depthwise_conv2d(x, leaf, b, padding=1), y)
            depthwise_conv2d(x, leaf, b, padding=1).sum().backward()
            assert leaf.grad.stride() == torch.empty_like(leaf).stride()
    assert_close(y, expected(*double(x, w, b), 1, 1).detach(), terms=9, scale=10)


@BOTH
@each_that_fits((18, 9, 11), (24, 9, 11))
def test_skips_the_padding(size, window, layout):
    """An infinite weight or gradient meets no zero of the padding: there would be NaN."""
    x, w, b = tensors(size, window, layout)
    arguments = reference_arguments(w, window)
    with emulated():
        g = torch.ones_like(depthwise_conv2d(x, w, b, *window[1:4]))
    ones, bad, g_bad = torch.ones_like(x), w.clone(), g.clone()
    bad[:, :, 0, 0] = g_bad[:, :, 0, 0] = float("inf")
    bad[:, :, -1, -1] = float("inf")
    infinite, g_infinite = (bad == float("inf")).float(), (g_bad == float("inf")).float()
    met_input = reference.depthwise_conv2d_backward_input(g, x, infinite, *arguments)
    met_weight, _ = reference.depthwise_conv2d_backward_weight(g_infinite, ones, w, *arguments)
    raw = torch.ops.fastconv
    with emulated():
        y = depthwise_conv2d(ones, bad, b, *window[1:4])
        grad_input = raw.depthwise_conv2d_backward_input(g, x, bad, *arguments)
        grad_weight, grad_bias = raw.depthwise_conv2d_backward_weight(g_bad, ones, w, *arguments)
    assert torch.equal(y.isfinite(), expected(ones, infinite, None, *window[1:4]) == 0)
    assert torch.equal(grad_input.isfinite(), met_input == 0)
    assert torch.equal(grad_weight.isfinite(), met_weight == 0)
    assert not y.isnan().any()
    assert not grad_input.isnan().any()
    assert not grad_weight.isnan().any()
    assert grad_bias.isinf().all()


@pytest.mark.parametrize("order", ORDERS)
@BOTH
def test_threads_take_turns_in_any_order(layout, order):
    with launches("depthwise_conv2d_weight_sum"):
        check((34, 9, 11), WINDOWS[4], layout, order=order)


@BOTH
def test_empty_batch(layout):
    x, w, b = (t.requires_grad_() for t in tensors((4, 5, 6), WINDOWS[2], layout, batch=0))
    with emulated():
        y = depthwise_conv2d(x, w, b, padding=1)
        y.sum().backward()
    assert y.shape == x.shape
    for leaf in (x, w, b):
        assert torch.equal(leaf.grad, torch.zeros_like(leaf))


@BOTH
def test_infinite_inputs(layout):
    """An infinite pixel meets no zero that stands for an output beyond the edge."""
    x, w, b = tensors((24, 9, 11), WINDOWS[2], layout)
    x[0, :, -1, -1] = float("inf")
    g = torch.ones(2, 24, 9, 11)
    with emulated():
        y = depthwise_conv2d(x, w, b, padding=1)
        grad_weight, _ = torch.ops.fastconv.depthwise_conv2d_backward_weight(
            g, x, w, *reference_arguments(w, WINDOWS[2])
        )
    assert torch.equal(y.isfinite(), expected(x, w, b, 1, 1).isfinite())
    met = torch.zeros(3, 3, dtype=torch.bool)
    met[1:, 1:] = True  # the taps by which an output meets the last pixel
    assert torch.equal(grad_weight.isinf(), met.expand(24, 1, 3, 3))
    assert not grad_weight.isnan().any()


# Of a block at most.
OUTPUTS = {"window": 256 * 16, "band": 16 * 32 * 32, "nchw_tile": 128 * 28, "nhwc_tile": 128 * 56}


@BOTH
@pytest.mark.parametrize("kernel", [3, 7, 35])
def test_launches_past_two_to_the_31_elements(kernel, layout):
    """Every output has a thread; the inputs are address space alone."""
    format = torch.channels_last if layout is channels_last else torch.contiguous_format
    x = torch.empty(33, 64, 2048, 512, dtype=torch.bfloat16, memory_format=format)
    with recorded(_C.gpu.Device()) as planned:
        w = torch.zeros(64, 1, kernel, kernel, dtype=x.dtype)
        y = depthwise_conv2d(x, w, padding=kernel // 2)
    (launch,) = planned
    outputs = OUTPUTS[launch.kernel.removeprefix("depthwise_conv2d_")]
    assert launch.blocks * outputs >= y.numel() > 2**31
