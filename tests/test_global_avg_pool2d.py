import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

import fastconv
from fastconv.ops import global_avg_pool2d
from tests.helpers import (
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

# Channels below, at and above a vector, four of them, a unit; pixels likewise, and past a run;
# planes at and above what is summed a vector of planes at once.
SHAPES = [
    *[(2, channels, 3, 5) for channels in (1, 7, 8, 9, 16, 17, 63, 64, 65, 100, 130)],
    *[(1, 5, 1, pixels) for pixels in (1, 2, 15, 16, 63, 64, 65, 129, 4100)],
    *[(2, channels, 1, 256) for channels in (3, 17)],
    (1, 9, 1, 257),
    (2, 70, 1, 1),
    (1, 1280, 7, 7),
    (0, 4, 2, 2),
]


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_values_and_gradients(layout, shape, dtype, name):
    x = layout(3 * torch.randn(shape).to(dtype)).requires_grad_()
    last = layout is channels_last and not x.is_contiguous() and x.numel()
    variant = "nhwc" if last else "nchw"
    with isa(name), reaches(f"global_avg_pool2d.{variant}"):
        y = global_avg_pool2d(x)
    assert_close(y, x.double().mean((2, 3), keepdim=True), terms=8, scale=4)
    assert y.is_contiguous()
    with isa(name), reaches(f"global_avg_pool2d.backward_{variant}"):
        y.sum().backward()
    assert_close(x.grad, torch.ones_like(x).double() / (shape[2] * shape[3]))
    assert x.grad.stride() == x.stride()


def test_long_sums_stay_exact():
    x = torch.rand(1, 2, 1000, 1000) + 100  # one chain of additions is off by 1e-3
    for layout in (contiguous, channels_last):
        y = global_avg_pool2d(layout(x)).double()
        torch.testing.assert_close(y, x.double().mean((2, 3), keepdim=True), rtol=1e-5, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides_and_opcheck(layout):
    x = layout(torch.randn(2, 5, 6, 7))
    assert_close(global_avg_pool2d(x), x.double().mean((2, 3), keepdim=True), scale=4)
    opcheck(torch.ops.fastconv.global_avg_pool2d.default, (x.requires_grad_(),))
    grad = torch.randn(2, 5, 1, 1)
    opcheck(torch.ops.fastconv.global_avg_pool2d_backward.default, (grad, x.detach()))


def test_out():
    for x in (torch.randn(2, 5, 6, 7), torch.randn(5, 6, 7)):
        out = torch.full((*x.shape[:-2], 1, 1), float("nan"))
        assert global_avg_pool2d(x, out=out) is out
        assert torch.equal(out, global_avg_pool2d(x))


def test_first_and_second_derivatives():
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert gradcheck(global_avg_pool2d, (x,))
    assert gradgradcheck(lambda x: global_avg_pool2d(x).square(), (x,))


def test_nan_and_infinity_pass():
    x = torch.randn(1, 20, 9, 9)
    x[0, 3, 4, 4], x[0, 7, 8, 8], x[0, 7, 0, 0] = float("nan"), float("inf"), float("inf")
    for layout in (contiguous, channels_last):
        y = global_avg_pool2d(layout(x))
        torch.testing.assert_close(y, x.mean((2, 3), keepdim=True), equal_nan=True)


def test_same_bits_on_any_threads():
    x = torch.randn(3, 200, 40, 40)
    for layout in (contiguous, channels_last):
        assert_same_bits_on_any_threads(lambda layout=layout: global_avg_pool2d(layout(x)))


def test_unbatched_vmap_compile_and_dtypes():
    x = torch.randn(3, 2, 4, 5, 6)
    torch.testing.assert_close(global_avg_pool2d(x[0, 0]), x[0, 0].mean((1, 2), keepdim=True))
    wanted = x.mean((3, 4), keepdim=True)
    torch.testing.assert_close(torch.func.vmap(global_avg_pool2d)(x), wanted)
    compiled = torch.compile(global_avg_pool2d, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x[0]), wanted[0])
    complex_x = torch.randn(1, 2, 3, 3, dtype=torch.complex64)
    torch.testing.assert_close(global_avg_pool2d(complex_x), complex_x.mean((2, 3), keepdim=True))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_bad_input(device):
    with pytest.raises(TypeError, match="argument 'input' must be Tensor, not int"):
        global_avg_pool2d(1)
    for shape, message in (((4,), "4 dimensions"), ((1, 4, 0, 3), "pixels"), ((1, 0, 3, 3), "pix")):
        with pytest.raises(RuntimeError, match=message):
            global_avg_pool2d(torch.ones(shape, device=device))


def test_layer():
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(fastconv.nn.GlobalAvgPool2d()(x), F.adaptive_avg_pool2d(x, 1))
