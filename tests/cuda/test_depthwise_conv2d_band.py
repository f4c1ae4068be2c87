"""depthwise_conv2d on the matrix unit: where its patches end, and what is not finite."""

import pytest
import torch

from fastconv import _C, ops
from tests.cuda.emulator import ORDERS, emulated, launches, recorded
from tests.cuda.test_depthwise_conv2d import check
from tests.helpers import assert_close, channels_last, contiguous
from tests.test_depthwise_conv2d import double, expected, fits, tensors

KERNEL = "depthwise_conv2d_band"
BOTH = pytest.mark.parametrize("layout", [contiguous, channels_last])
HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])

# 1, 2 and 4 tiles of 8 columns a patch; 8, 16 and 32 rows of 4, 2 and 1 images; packs of channels
# in part; planes that end at odd addresses.
SIZES = [(8, 7, 7), (24, 14, 13), (40, 9, 30), (16, 33, 8), (3, 35, 37), (1, 5, 66)]
# Blocks of a band: 2 to 5. Kernels of even sides, of one row or column, larger than the image.
WINDOWS = [
    (7, 1, "same", 1, 1),
    (7, 1, 0, 1, 1),
    (7, 1, (0, 1, 5, 2), 1, 1),
    (8, 1, 4, 1, 1),
    ((3, 5), 1, (1, 2), 1, 1),
    (13, 1, 6, 1, 1),
    ((2, 25), 1, (1, 12), 1, 1),
    ((15, 1), 1, (7, 0), 1, 1),
    ((5, 33), 1, (2, 16), 1, 1),
    (3, 1, 2, 2, 1),
    ((3, 2), 1, (6, 5), (6, 11), 1),
]


def forward(size, window, layout, dtype, activation=None, **emulation):
    x, w, b = tensors(size, window, layout, dtype, batch=3)
    with emulated(**emulation):
        y = ops.depthwise_conv2d(x, w, b, *window[1:4], activation)
    z = expected(*double(x, w, b), *window[1:4], activation)
    assert y.stride() == layout(y).stride()
    assert_close(y, z.detach(), terms=w[0].numel(), scale=10)


@pytest.mark.parametrize(("size", "window"), [(s, w) for s in SIZES for w in WINDOWS if fits(s, w)])
@BOTH
def test_values(size, window, layout):
    if layout is channels_last and size[0] % 8:
        size = (8 * size[0], *size[1:])
    with launches(KERNEL):
        forward(size, window, layout, torch.bfloat16)


@HALVES
@BOTH
def test_gradients(layout, dtype):
    """That of the input is a convolution with the weights turned around."""
    with launches(KERNEL):
        check((24, 11, 19), (9, 1, 3, 1, 1), layout, dtype)


@pytest.mark.parametrize("order", ORDERS)
@BOTH
def test_threads_take_turns_in_any_order(layout, order):
    with launches(KERNEL):
        forward((24, 9, 11), WINDOWS[0], layout, torch.float16, "hardswish", order=order)


@HALVES
@BOTH
@pytest.mark.parametrize(("kernel", "dilation"), [(7, 1), (3, 3)])
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_what_is_not_finite_reaches_its_window_alone(bad, kernel, dilation, layout, dtype):
    """The band's zeros meet all sources near by, and an infinity times zero is NaN."""
    x, w, b = tensors((8, 12, 20), (kernel, 1, 3, dilation, 1), layout, dtype)
    x[0, 3, 2, 5] = x[1, :, -1, -1] = x[1, 0, 6, 0] = bad
    with emulated():
        y = ops.depthwise_conv2d(x, w, b, padding=3, dilation=dilation)
    z = expected(*double(x, w, b), padding=3, dilation=dilation).detach()
    assert torch.equal(y.isnan(), z.isnan())
    assert torch.equal(y.isinf(), z.isinf())
    assert torch.equal(y[z.isinf()].double(), z[z.isinf()])
    finite = z.isfinite()
    assert 0 < finite.sum() < z.numel()
    assert_close(y[finite], z[finite], terms=49, scale=10)


@BOTH
def test_an_infinite_weight_skips_the_padding(layout):
    x, w, b = tensors((8, 9, 10), WINDOWS[0], layout, torch.bfloat16)
    w[2, 0, 0, 0] = w[5, 0, 6, 2] = float("inf")
    with emulated():
        y = ops.depthwise_conv2d(x.abs(), w, b, padding=3)
    met = expected(torch.ones_like(x).double(), w.isinf().double(), padding=3, b=None)
    assert torch.equal(y.isfinite(), met == 0)
    assert not y.isnan().any()


@pytest.mark.parametrize(
    ("kernel", "dtype", "chosen"),
    [
        (7, torch.bfloat16, "band"),
        (5, torch.bfloat16, "nhwc_tile"),
        (7, torch.float32, "nhwc_tile"),
        (4, torch.float16, "band"),  # no tile is compiled
        (35, torch.float16, "window"),
    ],
)
def test_choice(kernel, dtype, chosen):
    x = channels_last(torch.zeros(2, 16, 40, 40, dtype=dtype))
    with recorded(_C.gpu.Device()) as planned:
        ops.depthwise_conv2d(x, torch.zeros(16, 1, kernel, kernel, dtype=dtype))
    assert planned[0].kernel == f"depthwise_conv2d_{chosen}"
