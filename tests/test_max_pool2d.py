import pytest
import torch
import torch.nn.functional as F
from torch.library import opcheck

import fastconv
from fastconv.ops import max_pool2d
from tests.helpers import (
    DTYPES,
    ISAS,
    LAYOUTS,
    assert_same_bits_on_any_threads,
    channels_last,
    contiguous,
    isa,
    reaches,
)

# kernel, stride, padding, ceil_mode
WINDOWS = [
    (3, 2, 0, False),
    (3, 2, 1, False),
    (3, 1, 1, True),
    (3, 2, 0, True),
    (2, 2, 0, False),
    ((1, 5), (3, 1), (0, 2), True),
    (4, 7, 2, True),
]
CHANNELS = [1, 3, 8, 16, 17, 32, 63, 64, 70, 130]


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_values(window, layout, dtype, name):
    kernel, stride, padding, ceil_mode = window
    for channels, size in [*((c, (7, 9)) for c in CHANNELS), (5, (12, 5)), (20, (6, 6))]:
        x = layout(torch.randn(2, channels, *size).to(dtype))
        variant = "nhwc" if not x.is_contiguous() else "nchw"
        with isa(name), reaches(f"max_pool2d.{variant}"):
            y = max_pool2d(x, kernel, stride, padding, ceil_mode)
        wanted = F.max_pool2d(x.double(), kernel, stride, padding, 1, ceil_mode)
        assert torch.equal(y.double(), wanted)
        assert y.dtype == dtype
        assert y.stride() == layout(y).stride()


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "window",
    [
        (3, 2, 1, False),
        ((2, 5), (1, 3), (1, 2), True),
        ((1, 40), (1, 700), 0, False),
        ((2, 4200), 1, (1, 0), False),  # wider than what the caches hold of a row
        (1, 4000, 0, False),
    ],
    ids=str,
)
def test_long_rows(window, dtype, name):
    kernel, stride, padding, ceil_mode = window
    x = torch.randn(1, 2, 5, 9001)[..., : 4250 if kernel == (2, 4200) else 9001].to(dtype)
    with isa(name):
        y = max_pool2d(x, kernel, stride, padding, ceil_mode)
    assert torch.equal(y, F.max_pool2d(x, kernel, stride, padding, 1, ceil_mode))


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_planes_of_any_size(dtype, name):
    """Rows below, at and above a vector and four of them, and more than the caches hold at once."""
    for height, width in [(h, w) for h in (1, 2, 9) for w in (*range(2, 36), 66, 131)] + [(90, 70)]:
        x = torch.randn(1, 3, height, width, dtype=dtype)
        for kernel, stride, padding in ((3, 2, 1), (3, 1, 1), (2, 2, 1), (5, 1, 2), (2, 3, 1)):
            if min(height, width) + 2 * padding < kernel:
                continue
            with isa(name):
                y = max_pool2d(x, kernel, stride, padding)
            assert torch.equal(y, F.max_pool2d(x, kernel, stride, padding)), (x.shape, kernel)


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_a_nan_anywhere_is_the_maximum(layout, dtype, name):
    planes = torch.randn(9 * 37, 9 * 37)
    planes.fill_diagonal_(float("nan"))
    x = layout(planes.view(1, -1, 9, 37).to(dtype))
    for window in ((3, 2, 1), (3, 1, 1), (2, 2, 0), (4, 3, 2)):
        with isa(name):
            y = max_pool2d(x, *window)
        wanted = F.max_pool2d(x.float(), *window)
        torch.testing.assert_close(y.float(), wanted, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides_and_opcheck(layout):
    x = layout(torch.randn(2, 5, 6, 7))
    assert torch.equal(max_pool2d(x, 3, 2, 1), F.max_pool2d(x, 3, 2, 1))
    op = torch.ops.fastconv.max_pool2d.default
    opcheck(op, (x, [3, 3], [2, 2], [1, 1], True))
    opcheck(op, (contiguous(x).requires_grad_(), [2, 2], [2, 2], [0, 0]))


def test_nan_and_infinity_pass_as_in_torch():
    x = torch.randn(1, 20, 9, 9)
    x[0, 1, 4, 4], x[0, 2, 3, 3], x[0, 2, 3, 4] = float("nan"), float("nan"), float("inf")
    x[0, 3] = -float("inf")
    x[0, 4] = float("nan")
    for layout in (contiguous, channels_last):
        y = max_pool2d(layout(x), 3, 2, 1)
        torch.testing.assert_close(y, F.max_pool2d(x, 3, 2, 1), equal_nan=True, rtol=0, atol=0)


def test_gradients():
    for layout in (contiguous, channels_last):
        ours = layout(torch.randn(2, 4, 7, 7)).requires_grad_()
        theirs = ours.detach().clone().requires_grad_()
        max_pool2d(ours, 3, 2).sum().backward()
        F.max_pool2d(theirs, 3, 2).sum().backward()
        assert torch.equal(ours.grad, theirs.grad)


def test_same_bits_on_any_threads():
    x = channels_last(torch.randn(2, 48, 60, 60))
    assert_same_bits_on_any_threads(lambda: max_pool2d(x, 3, 2, 1))
    assert_same_bits_on_any_threads(lambda: max_pool2d(x.contiguous(), 3, 1, 1))


def test_unbatched_none_vmap_compile_and_autocast():
    x = torch.randn(3, 2, 4, 8, 6)
    wanted = torch.stack([F.max_pool2d(part, 2) for part in x])
    assert torch.equal(max_pool2d(x[0, 0], 2), wanted[0, 0])
    assert max_pool2d(x[0, :0], 2).shape == (0, 4, 4, 3)
    assert torch.equal(torch.func.vmap(lambda part: max_pool2d(part, 2))(x), wanted)
    compiled = torch.compile(max_pool2d, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x[0], 2), wanted[0])
    with torch.autocast("cpu", torch.bfloat16):
        assert max_pool2d(x[0], 2).dtype == torch.float32


X = torch.ones(1, 3, 8, 8)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("input", "window", "error"),
    [
        (1, (2,), TypeError),
        (X, ("2",), TypeError),
        (X, (0,), RuntimeError),
        (X, (2, 0), RuntimeError),
        (X, (2, 1, 2), RuntimeError),
        (X, (3, 1, -1), RuntimeError),
        (X, (9,), RuntimeError),
        (X[0, 0], (2,), RuntimeError),
        (X[:, :0], (2,), RuntimeError),
        (X[:, :, :0], (2,), RuntimeError),
    ],
)
def test_bad_input(input, window, error, device):
    if isinstance(input, torch.Tensor):
        input = input.to(device)
    with pytest.raises(error, match="max_pool2d" if device == "cpu" else None):
        max_pool2d(input, *window)


def test_layer():
    x = torch.randn(2, 3, 9, 9)
    for options in ({}, {"dilation": 2}, {"ceil_mode": True}, {"padding": 1}):
        assert torch.equal(
            fastconv.nn.MaxPool2d(3, 2, **options)(x), torch.nn.MaxPool2d(3, 2, **options)(x)
        )
    assert len(fastconv.nn.MaxPool2d(2, return_indices=True)(x)) == 2


def test_optimize_takes_it():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.MaxPool2d(3, 2, 1))
    for pool in (model[1], torch.nn.MaxPool2d(2), torch.nn.MaxPool2d((2, 3), dilation=2)):
        model[1] = pool
        x = torch.randn(2, 3, 13, 13)
        fast = fastconv.optimize(model.eval(), (x,))
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
        targets = [node.target for node in fast.graph.graph.nodes]
        assert (torch.ops.fastconv.max_pool2d.default in targets) == (pool.dilation == 1)
