"""The kernels of depthwise_conv2d, forward and for both gradients, against the reference."""

import itertools
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

from fastconv.ops import pack_depthwise_weight
from fastconv.triton_kernels import KERNELS
from tests.helpers import assert_close, channels_last, contiguous, expanded, permuted, sliced
from tests.triton.helpers import assert_agrees, call, expect

SINGLE, HALF, BRAIN = torch.float32, torch.float16, torch.bfloat16


@dataclass(frozen=True)
class Case:
    """Shapes are small, for a program takes the interpreter a twentieth of a second or more."""

    input: tuple[int, ...]
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilation: tuple[int, int] = (1, 1)
    multiplier: int = 1
    dtype: torch.dtype = SINGLE
    activation: str | None = None

    def tensors(self, layout=contiguous):
        channels = self.input[1] * self.multiplier
        input = layout(torch.randn(self.input).to(self.dtype))
        weight = torch.randn(channels, 1, *self.kernel).to(self.dtype)
        return input, weight, torch.randn(channels).to(self.dtype)

    @property
    def window(self):
        return self.stride, self.padding, self.dilation

    @property
    def taps(self):
        return self.kernel[0] * self.kernel[1]


CASES = {
    "one tile": Case((1, 4, 7, 6)),
    "over the edges of tiles": Case((1, 3, 10, 17), dtype=BRAIN, activation="relu6"),
    "stride": Case((1, 3, 9, 10), stride=(2, 2), dtype=HALF, activation="silu"),
    "stride beyond the kernel": Case((1, 2, 9, 8), (2, 1), (3, 2), (0, 0, 0, 0)),
    "even kernel, one-sided padding": Case((1, 2, 6, 7), (4, 2), (1, 1), (2, 0, 1, 1)),
    "dilation": Case((1, 2, 9, 8), dilation=(2, 3), padding=(2, 3, 2, 3), activation="hardswish"),
    "stride and dilation, no common factor": Case(
        (1, 2, 11, 9), (3, 2), (2, 3), (2, 1, 0, 2), (3, 2)
    ),
    "stride and dilation, a common factor": Case(
        (1, 2, 9, 10), (2, 3), (2, 2), (1, 2, 1, 2), (2, 4)
    ),
    "multiplier": Case((2, 3, 5, 4), multiplier=3, dtype=BRAIN),
    "7x7": Case((1, 1, 4, 3), (7, 7), padding=(3, 3, 3, 3), dtype=HALF),
    "31x1": Case((1, 1, 5, 3), (31, 1), padding=(15, 0, 15, 0)),
    "1x31": Case((1, 1, 1, 20), (1, 31), (1, 2), (0, 15, 0, 15), dtype=BRAIN),
    "10x2, stride": Case((1, 1, 8, 2), (10, 2), (2, 2), (5, 0, 4, 0)),
    "1x1": Case((2, 3, 3, 3), (1, 1), (2, 1), (0, 0, 0, 0)),
    "one pixel": Case((1, 3, 1, 1)),
    # Of contiguous tensors, rows of whole accesses: see depthwise_conv2d_planes.py.
    "whole accesses, stride": Case((1, 2, 9, 16), stride=(2, 2), dtype=HALF, activation="silu"),
    "whole accesses": Case((2, 3, 10, 8)),
    "whole accesses, dilation": Case((1, 2, 5, 8), dilation=(2, 3), padding=(2, 3, 2, 3)),
    "whole accesses, one-sided padding": Case((1, 2, 5, 12), (3, 2), padding=(1, 0, 0, 1)),
    "whole accesses, 5x5, multiplier": Case(
        (1, 2, 5, 16), (5, 5), padding=(2, 2, 2, 2), multiplier=2, dtype=BRAIN, activation="relu6"
    ),
    # Large filters in 16 bits: see depthwise_conv2d_bands.py.
    "bands": Case((2, 3, 9, 10), (7, 7), padding=(3, 3, 3, 3), dtype=HALF),
    "bands, whole accesses": Case(
        (1, 2, 5, 12), (7, 7), padding=(3, 3, 3, 3), dtype=BRAIN, activation="relu6"
    ),
    "bands of many parts": Case((1, 1, 2, 8), (2, 31), padding=(1, 15, 0, 15), dtype=HALF),
    "bands, stride": Case((1, 1, 5, 8), (8, 7), (2, 2), (3, 2, 3, 4), dtype=BRAIN),
    "bands, dilation, multiplier": Case(
        (1, 1, 8, 5), (7, 9), padding=(1, 10, 0, 8), dilation=(1, 2), multiplier=2, dtype=HALF
    ),
    "bands, padding beyond the filter": Case(
        (1, 1, 2, 4), (7, 7), padding=(7, 8, 0, 3), dtype=BRAIN
    ),
}
LAYOUTS = [contiguous, channels_last]
each_layout = pytest.mark.parametrize("layout", LAYOUTS)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@each_layout
def test_values(case, layout):
    x, w, b = case.tensors(layout)
    arguments = (x, w, b, *case.window, case.activation)
    assert_agrees("depthwise_conv2d", *arguments, terms=case.taps + 1, scale=8)


# Each layout has every other case, and so a stride, a dilation and a wide filter.
@pytest.mark.parametrize(
    ("case", "layout"), [(case, LAYOUTS[i % 2]) for i, case in enumerate(CASES.values())], ids=CASES
)
def test_gradients(case, layout):
    x, w, _ = case.tensors(layout)
    g = torch.randn(expect("depthwise_conv2d", x, w, None, *case.window).shape).to(case.dtype)
    arguments = (g, x, w, *case.window)
    terms = case.taps * case.multiplier
    assert_agrees("depthwise_conv2d_backward_input", *arguments, terms=terms, scale=8)
    terms = g.numel() // w.shape[0]
    assert_agrees("depthwise_conv2d_backward_weight", *arguments, terms=terms, scale=8)


@pytest.mark.parametrize("layout", [permuted, sliced])
def test_any_strides(layout):
    x, w, b = Case((2, 3, 6, 5)).tensors(layout)
    window = Case((2, 3, 6, 5)).window
    assert_agrees("depthwise_conv2d", x, w.transpose(2, 3), b, *window, terms=10, scale=8)
    g = expanded(torch.randn(2, 3, 6, 5))
    assert_agrees("depthwise_conv2d_backward_input", g, x, w, *window, terms=9, scale=8)
    assert_agrees("depthwise_conv2d_backward_weight", g, x, w, *window, terms=60, scale=8)


@pytest.mark.parametrize("multiplier", [1, 2])
def test_packed_weights(multiplier):
    case = Case((1, 16, 5, 4), multiplier=multiplier, dtype=BRAIN)
    x, w, b = case.tensors(channels_last)
    packed = pack_depthwise_weight(w)
    plain = call("depthwise_conv2d", x, w, b, *case.window)
    assert torch.equal(call("depthwise_conv2d", x, packed, b, *case.window), plain)
    grads = [
        call("depthwise_conv2d_backward_input", plain, x, v, *case.window) for v in (w, packed)
    ]
    assert torch.equal(*grads)
    grad, _ = call("depthwise_conv2d_backward_weight", plain, x, packed, *case.window)
    assert grad.stride() == packed.stride()
    expected, _ = call("depthwise_conv2d_backward_weight", plain, x, w, *case.window)
    assert torch.equal(grad, expected)


@each_layout
def test_infinite_pixels_stay_within_their_windows(layout):
    x, w, b = Case((1, 2, 4, 10), (7, 7), dtype=HALF).tensors(layout)
    x[0, 0, 3, 3], x[0, 1, 0, 0] = float("inf"), float("nan")
    bands = ((1, 1), (3, 3, 3, 3), (1, 1))
    assert_agrees("depthwise_conv2d", x, w, b, *bands, "silu", terms=50, scale=8)
    assert_agrees("depthwise_conv2d_backward_input", x, x, w, *bands, terms=49, scale=8)

    x, w, b = Case((1, 2, 9, 7)).tensors(layout)
    x[0, 0, 8, 3], x[0, 1, 0, 0] = float("inf"), float("nan")
    for window in (((1, 1), (0, 0, 0, 0), (1, 1)), ((2, 2), (1, 1, 1, 1), (1, 1))):
        assert_agrees("depthwise_conv2d", x, w, b, *window, terms=10, scale=8)
        g = torch.rand(expect("depthwise_conv2d", x, w, b, *window).shape) + 0.5
        assert_agrees("depthwise_conv2d_backward_weight", g, x, w, *window, terms=63, scale=8)
        g[0, 0, 0, 0], g[0, 1, -1, -1] = float("inf"), float("nan")
        assert_agrees("depthwise_conv2d_backward_input", g, x, w, *window, terms=9, scale=8)


def weighed(layout, *arguments, **settings):
    return Case(*arguments, **settings), layout


SEVEN = dict(padding=(3, 3, 3, 3), dtype=HALF)  # 7x7, of bands
WEIGHED = [
    weighed(channels_last, (1, 3, 5, 6)),
    weighed(channels_last, (1, 2, 6, 5), (4, 3), (2, 2), (1, 2, 2, 1)),
    weighed(contiguous, (1, 2, 6, 5), (4, 3), (2, 2), (1, 2, 2, 1)),
    weighed(channels_last, (1, 2, 6, 5), dilation=(2, 2), padding=(2, 2, 2, 2), dtype=HALF),
    weighed(contiguous, (1, 2, 4, 5), multiplier=2, dtype=BRAIN),
    weighed(channels_last, (1, 1, 4, 2), (9, 1), padding=(4, 0, 4, 0)),
    # Of whole accesses.
    weighed(contiguous, (1, 3, 10, 8)),
    weighed(contiguous, (1, 2, 5, 16), stride=(2, 2), dtype=HALF),
    weighed(contiguous, (1, 1, 3, 5), (7, 7), **SEVEN),
    weighed(channels_last, (1, 1, 3, 5), (7, 7), **SEVEN),
]


def tap_by_tap(x, w, stride, padding, dilation):
    """The convolution in float64, each product there or not: none is of a zero of the padding."""
    top, left, bottom, right = padding
    x = x.repeat_interleave(w.shape[0] // x.shape[1], 1)
    inside = F.pad(torch.ones_like(x), (left, right, top, bottom)) == 1
    x, ends = F.pad(x, (left, right, top, bottom)), []
    for n, k, d in zip(inside.shape[2:], w.shape[2:], dilation, strict=True):
        ends.append(n - (k - 1) * d)
    y = 0
    for i, j in itertools.product(*map(range, w.shape[2:])):
        rows, columns = (
            slice(tap * d, tap * d + end, s)
            for tap, d, end, s in zip((i, j), dilation, ends, stride, strict=True)
        )
        product = x[:, :, rows, columns] * w[:, 0, i, j, None, None]
        y = y + torch.where(inside[:, :, rows, columns], product, 0)
    return y


@pytest.mark.parametrize(("case", "layout"), WEIGHED)
def test_infinite_weights_and_gradients_meet_no_padding(case, layout):
    x, w, _ = case.tensors(layout)
    x, bad = x.abs() + 0.5, w.abs() + 0.5
    g = torch.ones_like(expect("depthwise_conv2d", x, w, None, *case.window)).to(case.dtype)
    bad[:, :, 0, 0] = bad[:, :, -1, -1] = float("inf")
    bad[-1, :, 0, -1] = float("nan")
    g_bad = g.clone()
    g_bad[:, :, 0, 0] = float("inf")
    g_bad[:, -1, -1, -1] = float("nan")

    wide, weights = x.double().requires_grad_(), bad.double()
    y = tap_by_tap(wide, weights, *case.window)
    (of_input,) = torch.autograd.grad(y.sum(), wide)
    (of_weight,) = torch.autograd.grad(
        tap_by_tap(x.double(), weights.requires_grad_(), *case.window), weights, g_bad.double()
    )
    assert y.isfinite().any()
    for actual, expected in (
        (call("depthwise_conv2d", x, bad, None, *case.window), y.detach()),
        (call("depthwise_conv2d_backward_input", g, x, bad, *case.window), of_input),
        (call("depthwise_conv2d_backward_weight", g_bad, x, w, *case.window)[0], of_weight),
    ):
        assert_close(actual, expected, terms=2 * g.numel(), scale=8)


def test_no_images():
    x, w, b = Case((0, 3, 5, 4)).tensors()
    window = Case((0, 3, 5, 4)).window
    assert call("depthwise_conv2d", x, w, b, *window).shape == (0, 3, 5, 4)
    assert call("depthwise_conv2d_backward_input", x, x, w, *window).shape == (0, 3, 5, 4)
    for grad in call("depthwise_conv2d_backward_weight", x, x, w, *window):
        assert grad.count_nonzero() == 0


def test_bad_input():
    x, w, b = Case((1, 3, 5, 4)).tensors()
    window = Case((1, 3, 5, 4)).window
    with pytest.raises(RuntimeError, match="expected bias of shape"):
        call("depthwise_conv2d", x, w, b[:2], *window)
    with pytest.raises(RuntimeError, match="no larger than the padded input"):
        call("depthwise_conv2d", x, w, b, (1, 1), (0, 0, 0, 0), (3, 3))
    with pytest.raises(RuntimeError, match="grad_output of shape"):
        call("depthwise_conv2d_backward_input", x[:, :, :4], x, w, *window)
    with pytest.raises(RuntimeError, match="expected weight of shape"):
        call("depthwise_conv2d_backward_input", x, x, w[:2], *window)
    with pytest.raises(RuntimeError, match="grad_output of the device and dtype"):
        call("depthwise_conv2d_backward_weight", x.half(), x, w, *window)


def test_large_filters_are_refused():
    x, w = torch.empty(1, 1, 40, 40), torch.empty(1, 1, 33, 33)
    reason = KERNELS["depthwise_conv2d"].refusal(x, w, None, (1, 1), (0, 0, 0, 0), (1, 1))
    assert "33x33" in reason
