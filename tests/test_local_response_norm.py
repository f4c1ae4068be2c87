import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

import fastconv
from fastconv import reference
from fastconv.ops import local_response_norm
from fastconv.ops.local_response_norm import arguments_from_paper, arguments_from_tensorflow
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

raw_backward = torch.ops.fastconv.local_response_norm_backward

# Channels and pixels below, at and above one vector; above one tile, forward and backward.
SHAPES = [
    (2, 1, 3, 3),
    (1, 3, 1, 1),
    (3, 8, 4, 4),
    (2, 15, 1, 7),
    (1, 16, 5, 5),
    (2, 17, 3, 11),
    (1, 33, 2, 8),
    (1, 6, 23, 23),
    (2, 40, 9),
    (70, 21, 1),
    (2, 7, 3, 2, 5),
    (0, 4, 2, 2),
    (2, 4, 0, 2),
]
SIZES = [1, 2, 4, 5, 6, 31, 100]


def oracle(x, *arguments, **named):
    return reference.local_response_norm(x.double(), *arguments, **named)


def assert_near(actual, expected, size):
    """A window's sum takes size roundings, the power and the product four more."""
    scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    assert_close(actual, expected, terms=size + 4, scale=scale)


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape, layout, dtype, name):
    layout = layout if len(shape) == 4 else contiguous
    x, g = (layout(2 * torch.randn(shape).to(dtype)) for _ in range(2))
    for size in SIZES:
        for beta in (0.75, 0.6) if size == 5 else (0.75,):
            arguments = (size, 0.5, beta, 1.5)
            with isa(name):
                y, grad = local_response_norm(x, *arguments), raw_backward(g, x, *arguments)
            assert_near(y, oracle(x, *arguments), min(size, shape[1]))
            expected = reference.local_response_norm_backward(g.double(), x.double(), *arguments)
            assert_near(grad, expected, 4 * min(size, shape[1]))
            if x.numel():  # an empty tensor counts as contiguous, whatever its strides
                assert y.stride() == grad.stride() == x.stride()


@pytest.mark.parametrize("beta", [0.75, 0.5, 1.0, 2.0, 0.0, -0.75, 0.3])
@pytest.mark.parametrize("k", [1.0, 1e-6, 1e15])
@pytest.mark.parametrize("name", ISAS)
def test_powers_keep_their_precision_at_any_magnitude(name, k, beta):
    x = torch.randn(2, 9, 5, 5) * torch.logspace(-3, 9, 25).view(5, 5)
    expected = oracle(x, 5, 2.0, beta, k)
    representable = (expected.abs() < 1e38) & (expected.abs() > 1e-37)
    with isa(name):
        y = local_response_norm(x, 5, 2.0, beta, k).double()
    error = ((y - expected) / expected).abs()[representable]
    assert error.max() < 16 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("k", [1.0, 1e-6, 1e15])
@pytest.mark.parametrize("name", ISAS)
def test_gradients_keep_their_precision_at_any_magnitude(name, k):
    x = (0.1 + torch.rand(2, 9, 5, 5)) * torch.logspace(-3, 9, 25).view(5, 5)
    g = torch.zeros(2, 9, 5, 5)
    g[:, 4] = 1 + torch.rand(2, 5, 5)  # of one channel: its neighbours' gradients are one term each
    expected = reference.local_response_norm_backward(g.double(), x.double(), 5, 2.0, 0.75, k)
    with isa(name):
        grad = raw_backward(g, x, 5, 2.0, 0.75, k).double()
    for channel in (2, 3, 5, 6):
        wanted = expected[:, channel]
        error = ((grad[:, channel] - wanted) / wanted).abs()[wanted.abs() > 1e-37]
        assert error.max() < 16 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("grad_layout", LAYOUTS)
def test_any_strides(layout, grad_layout):
    x = layout(torch.randn(2, 5, 6, 7)).requires_grad_()
    g = grad_layout(torch.randn(2, 5, 6, 7))
    y = local_response_norm(x, 5, alpha=1.0)
    y.backward(g)
    assert_near(y, oracle(x.detach(), 5, alpha=1.0), 5)
    expected = reference.local_response_norm_backward(g.double(), x.detach().double(), 5, alpha=1.0)
    assert_near(x.grad, expected, 20)
    last = layout is channels_last
    assert y.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_sum_backward(layout):
    x = layout(torch.randn(2, 9, 5, 5)).requires_grad_()
    local_response_norm(x, 5, alpha=1.0).sum().backward()  # the gradient has stride 0
    x64 = x.detach().double().requires_grad_()
    F.local_response_norm(x64, 5, alpha=1.0).sum().backward()
    assert_near(x.grad, x64.grad, 20)
    assert x.grad.stride() == x.stride()


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize(
    ("layout", "dtype", "shape"),
    [
        (contiguous, torch.float32, (9, 67, 103, 103)),
        (contiguous, torch.bfloat16, (18, 67, 103, 103)),
        (contiguous, torch.float64, (3, 67, 76, 76)),
        (channels_last, torch.float32, (3, 80, 94, 94)),
        (channels_last, torch.float64, (3, 16, 150, 150)),
    ],
)
def test_results_past_the_caches(shape, dtype, layout, name):
    """Results of 8 MiB and more, of some kernels 24, are stored another way."""
    x, g = (layout(torch.randn(shape).to(dtype)) for _ in range(2))
    with isa(name):
        y, grad = local_response_norm(x, 5, alpha=1.0), raw_backward(g, x, 5, 1.0, 0.75, 1.0)
        parts = [local_response_norm(image, 5, alpha=1.0) for image in x.split(1)]
        grads = [
            raw_backward(*pair, 5, 1.0, 0.75, 1.0)
            for pair in zip(g.split(1), x.split(1), strict=True)
        ]
    assert torch.equal(y, torch.cat(parts))
    assert torch.equal(grad, torch.cat(grads))


def test_variants_are_reached():
    x = torch.randn(1, 4, 3, 3)
    for layout, name in ((contiguous, "nchw"), (channels_last, "nhwc")):
        with reaches(f"local_response_norm.{name}"):
            local_response_norm(layout(x), 5)
        with reaches(f"local_response_norm_backward.{name}"):
            raw_backward(layout(x), layout(x), 5)


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "arguments", [(1.0, 0.75, 1.0), (1.0, 0.75, 0.0), (1.0, 0.6, 0.0), (-1.0, 1.0, -0.5)]
)
def test_nan_infinity_and_zero_pass_as_in_torch(arguments, dtype, layout, name):
    special = [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e20, -3e38, 1e-25, 1e-40]
    x = torch.randn(2, 37, 3, 5, dtype=dtype)
    x.view(-1)[torch.randperm(x.numel())[:90]] = torch.tensor(special, dtype=dtype).repeat(10)
    ours, theirs = layout(x).requires_grad_(), layout(x).requires_grad_()
    for size in (4, 5):
        with isa(name):
            y = local_response_norm(ours, size, *arguments)
            ours.grad = None
            y.sum().backward()
        expected = F.local_response_norm(theirs, size, *arguments)
        theirs.grad = None
        expected.sum().backward()
        torch.testing.assert_close(y, expected, equal_nan=True, rtol=1e-3, atol=1e-6)
        assert torch.equal(ours.grad.isnan(), theirs.grad.isnan())


def test_a_large_value_leaves_channels_outside_its_window_alone():
    x = torch.randn(1, 64, 4, 4)
    spoilt = x.clone()
    spoilt[:, 20] = 1e15
    spoilt[:, 40] = float("nan")
    for layout in (contiguous, channels_last):
        y, z = local_response_norm(layout(x), 5), local_response_norm(layout(spoilt), 5)
        outside = [c for c in range(64) if abs(c - 20) > 2 and abs(c - 40) > 2]
        assert torch.equal(y[:, outside], z[:, outside])


def test_float16_squares_do_not_overflow():
    x = torch.full((1, 3, 1, 2), 1000.0, dtype=torch.float16)
    assert_near(local_response_norm(x, 3), oracle(x, 3), 3)


@pytest.mark.parametrize("shape", [(2, 5, 2), (1, 6, 1, 2)])
@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("beta", [0.75, 0.4])
def test_first_and_second_derivatives(beta, size, shape):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert gradcheck(local_response_norm, (x, size, 0.5, beta, 1.0))
    assert gradgradcheck(local_response_norm, (x, size, 0.5, beta, 1.0))


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(layout, requires_grad):
    x, g = (layout(torch.randn(2, 4, 3, 5)).requires_grad_(requires_grad) for _ in range(2))
    opcheck(torch.ops.fastconv.local_response_norm.default, (x, 5, 0.1, 0.75, 1.0))
    opcheck(raw_backward.default, (g, x, 5, 0.1, 0.75, 1.0))


@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_same_bits_on_any_threads(layout):
    x, g = layout(torch.randn(3, 37, 50, 50)), layout(torch.randn(3, 37, 50, 50))
    for beta in (0.75, 0.6):
        assert_same_bits_on_any_threads(lambda beta=beta: local_response_norm(x, 5, 1.0, beta))
        assert_same_bits_on_any_threads(lambda beta=beta: raw_backward(g, x, 5, 1.0, beta))


def test_vmap_folds_into_the_batch():
    x = torch.randn(3, 2, 6, 4, 5)
    expected = local_response_norm(x.flatten(0, 1), 3).unflatten(0, (3, 2))
    torch.testing.assert_close(torch.func.vmap(lambda x: local_response_norm(x, 3))(x), expected)
    gradient = torch.func.grad(lambda x: local_response_norm(x, 3).sum())
    flat = x.flatten(0, 1).requires_grad_()
    local_response_norm(flat, 3).sum().backward()
    torch.testing.assert_close(torch.func.vmap(gradient)(x).flatten(0, 1), flat.grad)


def test_compile_with_changing_shapes():
    compiled = torch.compile(local_response_norm, backend="aot_eager", dynamic=True)
    for shape in ((2, 6, 4, 5), (1, 9, 3, 3)):
        x = torch.randn(shape)
        assert torch.equal(compiled(x, 5), local_response_norm(x, 5))


def test_flops_are_counted():
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        local_response_norm(torch.randn(2, 3, 4), 5)
    assert counter.get_total_flops() == 2 * 5 * 24


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1, 5), TypeError, "argument 'input' must be Tensor, not int"),
        ((torch.ones(2, 3), 5), ValueError, r"expected input with 3 .* got 2 in shape \(2, 3\)"),
        ((torch.ones(2, 3, 4), 2.5), TypeError, "argument 'size' must be int, not float"),
        ((torch.ones(2, 3, 4), True), TypeError, "argument 'size' must be int, not bool"),
        ((torch.ones(2, 3, 4), 0), RuntimeError, "size greater than zero, got 0"),
        ((torch.ones(2, 3, 4), 5, "a"), TypeError, "argument 'alpha' must be float, not str"),
        ((torch.ones(2, 3, 4), 5, 1.0, None), TypeError, "argument 'beta' must be float"),
        ((torch.ones(2, 3, 4, dtype=torch.int32), 5), NotImplementedError, "Int"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        local_response_norm(*arguments)


def test_bad_gradient():
    x = torch.ones(1, 2, 3)
    for grad, message in ((torch.ones(1, 2, 4), "shape"), (x.double(), "dtype")):
        with pytest.raises(RuntimeError, match=message):
            raw_backward(grad, x, 5)


def test_conventions():
    x = torch.randn(1, 9, 3, 3, dtype=torch.float64)
    squares = F.pad(x * x, (0, 0, 0, 0, 2, 2)).unfold(1, 5, 1).sum(-1)
    torch.testing.assert_close(
        local_response_norm(x, **arguments_from_paper()), x / (2 + 1e-4 * squares) ** 0.75
    )
    torch.testing.assert_close(
        local_response_norm(x, **arguments_from_tensorflow(2, 1.5, 0.3, 0.5)),
        x / (1.5 + 0.3 * squares) ** 0.5,
    )


def test_layer():
    layer, theirs = (nn.LocalResponseNorm(5, k=2.0) for nn in (fastconv.nn, torch.nn))
    assert repr(layer) == repr(theirs)
    assert layer.state_dict() == theirs.state_dict()
    x = torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(layer(x), theirs(x))
    alexnet = fastconv.nn.LocalResponseNorm.from_paper()
    assert (alexnet.size, alexnet.alpha, alexnet.beta, alexnet.k) == (5, 5e-4, 0.75, 2.0)
    tensorflow = fastconv.nn.LocalResponseNorm.from_tensorflow()
    assert (tensorflow.size, tensorflow.alpha, tensorflow.beta, tensorflow.k) == (11, 11, 0.5, 1)
