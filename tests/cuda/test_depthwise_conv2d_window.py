"""depthwise_conv2d with windows that no tile fits, over the edges of tiles and of the window."""

import pytest
import torch

from fastconv import _C
from fastconv.ops import depthwise_conv2d
from tests.cuda.emulator import ORDERS, emulated, launches, recorded
from tests.cuda.test_depthwise_conv2d import check
from tests.helpers import assert_close, channels_last, contiguous
from tests.test_depthwise_conv2d import double, expected, fits, tensors

KERNEL = "depthwise_conv2d_window"
BOTH = pytest.mark.parametrize("layout", [contiguous, channels_last])

# Below, at and above a thread's tile (2 x 8), a block's planes and bands of rows.
SIZES = [(3, 7, 7), (17, 14, 13), (9, 9, 30), (2, 33, 8), (2, 70, 57), (2, 2, 300)]
# Whole chunks of eight taps, one more, one less; rows, columns; larger than the image.
WINDOWS = [
    (9, 1, "same", 1, 1),
    (8, 1, (3, 0, 4, 1), 1, 1),
    (31, 1, 15, 1, 1),
    ((1, 17), 1, (0, 8), 1, 1),
    ((13, 2), 1, (6, 1), 1, 1),
    (11, 1, 2, 1, 1),
    (9, 1, 4, 1, 3),
    (3, 1, 1, 1, 2),
    (35, 1, 20, 1, 1),
]


def forward(size, window, layout, dtype=torch.float32, activation=None, **emulation):
    x, w, b = tensors(size, window, layout, dtype, batch=2)
    with emulated(**emulation):
        y = depthwise_conv2d(x, w, b, *window[1:4], activation)
    z = expected(*double(x, w, b), *window[1:4], activation)
    assert y.stride() == layout(y).stride()
    assert_close(y, z.detach(), terms=w[0].numel(), scale=10)


@pytest.mark.parametrize(("size", "window"), [(s, w) for s in SIZES for w in WINDOWS if fits(s, w)])
@BOTH
def test_values(size, window, layout):
    with launches(KERNEL):
        forward(size, window, layout)


# Of these sizes each window's interleaved images are worth it; some have a row or a column less.
DILATED_SIZES = [(3, 41, 58), (9, 30, 65)]
DILATED = [
    (3, 1, 2, 2, 1),
    (5, 1, (4, 2), (2, 3), 1),
    (9, 1, 11, 3, 1),
    ((1, 7), 1, (0, 9), (1, 3), 2),
    ((5, 10), 1, 0, (4, 2), 1),
]


@pytest.mark.parametrize("window", DILATED)
@pytest.mark.parametrize("size", DILATED_SIZES)
@BOTH
def test_dilated(size, window, layout):
    with launches(KERNEL):
        forward(size, window, layout, activation="relu")


@BOTH
def test_gradients_of_a_dilated_window(layout):
    with launches(KERNEL):
        check((5, 40, 57), (5, 1, 3, 2, 1), layout)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@BOTH
def test_halves(dtype, layout):
    with launches(KERNEL):
        forward((5, 12, 11), WINDOWS[-1], layout, dtype)


@BOTH
def test_gradients(layout):
    """That of the input is a convolution with the weights turned around."""
    with launches(KERNEL):
        check((9, 11, 19), (9, 1, 3, 1, 1), layout)


@pytest.mark.parametrize("order", ORDERS)
@BOTH
def test_threads_take_turns_in_any_order(layout, order):
    with launches(KERNEL):
        forward((17, 9, 11), WINDOWS[0], layout, activation="hardswish", order=order)


@pytest.mark.parametrize("where", ["input", "weight"])
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@pytest.mark.parametrize(("size", "dilation"), [((4, 12, 20), 1), ((4, 40, 50), 2)])
@BOTH
def test_what_is_not_finite_meets_no_padding(layout, size, dilation, bad, where):
    """Neither that of the image nor the weights that fill up a chunk of taps."""
    x, w, b = tensors(size, (9, 1, 4, dilation, 1), layout)
    (x if where == "input" else w)[:, :, -1, -1] = bad
    x[0, 1, 3, 9] = bad
    with emulated(), launches(KERNEL):
        y = depthwise_conv2d(x, w, b, padding=4, dilation=dilation)
    z = depthwise_conv2d(*double(x, w, b), padding=4, dilation=dilation)
    z = z.detach()  # torch's own meets the padding
    assert torch.equal(y.isnan(), z.isnan())
    assert torch.equal(y.isinf(), z.isinf())
    finite = z.isfinite()
    assert 0 < finite.sum() < z.numel()
    assert_close(y[finite], z[finite], terms=81, scale=10)


@pytest.mark.parametrize(
    ("window", "dtype", "chosen"),
    [
        ((9, 1, 4, 1, 1), torch.float32, "window"),
        ((9, 1, 4, 1, 1), torch.bfloat16, "band"),
        ((7, 1, 3, 1, 1), torch.float32, "nhwc_tile"),
        ((9, 1, 4, 1, 1), torch.float64, "any"),
        ((9, 2, 4, 1, 1), torch.float32, "any"),
        ((9, 1, 8, 2, 1), torch.float32, "window"),
        ((9, 1, 16, 4, 1), torch.float32, "any"),  # images of 5 x 5
        ((9, 1, 8, 2, 1), torch.bfloat16, "band"),
    ],
)
def test_choice(window, dtype, chosen):
    x, w, b = tensors((16, 20, 20), window, channels_last, dtype)
    with recorded(_C.gpu.Device()) as planned:
        depthwise_conv2d(x, w, b, *window[1:4])
    assert planned[0].kernel == f"depthwise_conv2d_{chosen}"
