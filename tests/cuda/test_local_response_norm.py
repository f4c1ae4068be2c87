import pytest
import torch

from fastconv import _C, ops, reference
from tests.cuda.emulator import ORDERS, emulated, launches, recorded
from tests.helpers import DTYPES, LAYOUTS, assert_close, channels_last, contiguous

# Channels below a window, of whole and of broken packs, of several chunks; pixels likewise.
SHAPES = [(2, 3, 5, 7), (1, 16, 4, 6), (2, 72, 2, 3), (1, 200, 1, 1), (1, 9, 12, 12), (0, 4, 2, 2)]
NARROW = [torch.float32, torch.bfloat16, torch.float16]


def gradient(x, g, *arguments):
    x = x.detach().requires_grad_()
    ops.local_response_norm(x, *arguments).backward(g)
    return x.grad


def check(x, *arguments, **emulation):
    """Forward and backward of x, whatever kernels serve it."""
    g = torch.randn_like(x)
    with emulated(**emulation):
        y, dx = ops.local_response_norm(x, *arguments), gradient(x, g, *arguments)
    alpha, beta, k = (*arguments[1:], *(1e-4, 0.75, 1.0)[len(arguments) - 1 :])
    expected = reference.local_response_norm(x.double(), arguments[0], alpha, beta, k)
    assert_close(y, expected, terms=4, scale=4)
    expected = reference.local_response_norm_backward(
        g.double(), x.double(), arguments[0], alpha, beta, k
    )
    assert_close(dx, expected, terms=8, scale=4)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 2, 5, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape, size, dtype, layout):
    check(layout(torch.randn(shape)).to(dtype), size, 0.5)


@pytest.mark.parametrize("beta", [0.5, 0.75, 1.0])
@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_coefficients(layout, beta):
    check(layout(3 * torch.randn(2, 24, 3, 4)), 5, 2.0, beta, 2.0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides(layout):
    check(layout(torch.randn(2, 10, 6, 7)), 5, 0.5)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize(("layout", "name"), [(contiguous, "nchw"), (channels_last, "nhwc")])
def test_the_paper_s_window_has_kernels_of_its_own(layout, name, dtype):
    x = layout(torch.randn(1, 32, 4, 4)).to(dtype)
    with emulated(), launches(f"local_response_norm_{name}"):
        ops.local_response_norm(x, 5)
    with emulated(), launches(f"local_response_norm_backward_{name}"):
        gradient(x, x, 5)


def test_nan_and_infinity_pass_as_in_torch():
    x = torch.randn(1, 40, 3, 3)
    x[0, 7, 0, 0], x[0, 20, 1, 1], x[0, 30, 2, 2] = float("nan"), float("inf"), 1e30
    with emulated():
        y = ops.local_response_norm(x, 5)
    torch.testing.assert_close(y, reference.local_response_norm(x, 5), equal_nan=True)


@pytest.mark.parametrize("order", ORDERS)
def test_threads_take_turns_in_any_order(order):
    x = torch.randn(2, 40, 5, 5)
    with emulated():
        expected = ops.local_response_norm(x, 5)
    with emulated(order):
        assert torch.equal(ops.local_response_norm(x, 5), expected)


def test_one_image_is_split_over_the_multiprocessors():
    with recorded(_C.gpu.Device(architecture=90)) as planned:
        ops.local_response_norm(torch.empty(1, 256, 27, 27), 5)
        ops.local_response_norm(torch.empty(128, 96, 55, 55), 5)
    assert [launch.blocks for launch in planned] == [6 * 8, 128 * 24]


def test_window_compiled_for_where_the_kernels_are_compiled_at_run_time():
    with recorded(_C.gpu.Device(architecture=90, compiles=True)) as planned:
        ops.local_response_norm(torch.empty(2, 64, 8, 8), 9)
    assert planned[0].expression == "fastconv::cuda::local_response_norm_nchw<0, 4, 9, 1>"
