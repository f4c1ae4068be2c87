import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

import fastconv
from fastconv import reference
from fastconv.ops import batch_norm
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

# Rows of one pixel and of several, with pixels left over; parts of a plane; units; one pixel.
SHAPES = [
    (2, 3, 5, 7),
    (4, 24, 9, 9),
    (5, 17, 3, 3),
    (2, 96, 14, 14),
    (2, 1281, 2, 2),
    (5, 6, 1, 1),
    (2, 1, 4, 4),
    (1, 2, 93, 91),
    (3, 64, 40, 40),
    (4, 65),
    (3, 5, 11),
    (2, 3, 4, 5, 6),
]


def arguments(shape, dtype, mean=5.0):
    """Input, running mean and variance, weight and bias; the latter four as under autocast."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    channels = shape[1]
    x = (2 * torch.randn(shape) + mean).to(dtype)
    running = torch.randn(channels, dtype=wide), torch.rand(channels, dtype=wide) + 0.5
    return x, *running, torch.randn(channels, dtype=wide), torch.randn(channels, dtype=wide) + 2


def expected(x, running_mean, running_var, weight, bias, training, activation, grad=None):
    """The float64 reference: output, the statistics afterwards, and gradients."""
    leaves = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    statistics = [t.double() for t in (running_mean, running_var)]
    z = F.batch_norm(leaves[0], *statistics, *leaves[1:], training, 0.1, 1e-5)
    y = reference.activate(z, activation)
    if grad is not None:
        y.backward(grad.double())
    return y.detach(), *statistics, *(leaf.grad for leaf in leaves)


def near(actual, right, dtype):
    """To some roundings of the largest value or of 1: parameters' gradients are long sums."""
    computed = torch.promote_types(dtype, torch.float32)
    bound = 400 * torch.finfo(computed).eps
    if computed != dtype:  # an activation may meet a neighbour of the kink, the result is rounded
        bound = 4 * torch.finfo(dtype).eps
    assert not actual.isnan().any()
    if right.numel():
        error = (actual.double() - right).abs().max() / right.abs().max().clamp_min(1.0)
        assert error <= bound, (float(error), bound)


def layouts_of(shape):
    return [contiguous, channels_last] if len(shape) == 4 else [contiguous]


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_stored_past_the_caches(dtype, name):
    """Of 16 MiB and more: rows of several pixels, and pixels that fill none."""
    torch.manual_seed(0)
    x, *statistics, weight, bias = arguments((3, 48, 243, 241), dtype)
    x = channels_last(x)
    grad = channels_last(torch.randn(x.shape).to(dtype))
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    wide = [t.clone() for t in statistics]
    with isa(name):
        output = batch_norm(x, *wide, weight, bias, True, 0.1, 1e-5, "silu")
        output.backward(grad)
    right = expected(x, *statistics, weight, bias, True, "silu", grad)
    for actual, one in zip([output, *wide, *(t.grad for t in leaves)], right, strict=True):
        near(actual.detach(), one, dtype)


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape, training, dtype, name):
    torch.manual_seed(0)
    for layout in layouts_of(shape):
        x, mean, var, weight, bias = arguments(shape, dtype)
        x, grad = layout(x), layout(torch.randn(shape).to(dtype))
        right = expected(x, mean, var, weight, bias, training, "relu6", grad)
        leaves = [t.requires_grad_() for t in (x, weight, bias)]
        with isa(name):
            y = batch_norm(x, mean, var, weight, bias, training, activation="relu6")
            y.backward(grad)
        assert y.dtype == x.dtype
        assert y.stride() == x.stride()
        for actual, wanted in zip(
            (y.detach(), mean, var, *(leaf.grad for leaf in leaves)), right, strict=True
        ):
            near(actual, wanted, dtype)


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("training", [True, False])
def test_activations(training, activation, layout, name):
    x, mean, var, weight, bias = arguments((3, 20, 6, 7), torch.float32)
    x, grad = layout(x), layout(torch.randn(x.shape))
    right = expected(x, mean, var, weight, bias, training, activation, grad)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    variant = "nhwc" if layout is channels_last else "nchw"
    with isa(name), reaches(f"batch_norm.{variant}"), reaches(f"batch_norm_backward.{variant}"):
        y = batch_norm(x, mean, var, weight, bias, training, activation=activation)
        y.backward(grad)
    for actual, wanted in zip(
        (y.detach(), *(t.grad for t in leaves)), right[:1] + right[3:], strict=True
    ):
        near(actual, wanted, torch.float32)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("mean", [0.0, 1e3, -1e4])
def test_statistics_no_worse_than_torchs(mean, layout):
    """A sum of squares would lose all digits of the variance; images differ in mean besides."""
    x = layout(torch.randn(8, 24, 30, 31) + mean + torch.arange(8.0).view(8, 1, 1, 1))
    right = torch.var_mean(x.double(), (0, 2, 3))
    ours, torchs = ((torch.zeros(24), torch.zeros(24)) for _ in range(2))
    batch_norm(x, *ours, training=True, momentum=1.0)
    F.batch_norm(x, *torchs, training=True, momentum=1.0)
    for wanted, our, theirs in zip(right, reversed(ours), reversed(torchs), strict=True):
        limit = max((theirs - wanted).abs().max(), 1e-6 * wanted.abs().max())
        assert (our - wanted).abs().max() <= limit


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("grad_layout", LAYOUTS)
def test_any_strides(layout, grad_layout):
    x, mean, var, weight, bias = arguments((2, 5, 6, 7), torch.float32)
    x, grad = layout(x), grad_layout(torch.randn(x.shape))
    right = expected(x, mean, var, weight, bias, True, "relu", grad)
    x = x.detach().requires_grad_()
    y = batch_norm(x, mean, var, weight, bias, True, activation="relu")
    y.backward(grad)
    near(y.detach(), right[0], torch.float32)
    near(x.grad, right[3], torch.float32)


@pytest.mark.parametrize("training", [True, False])
def test_the_gradient_of_a_sum_and_parts_of_it(training):
    x, mean, var, weight, bias = arguments((2, 4, 5, 5), torch.float64)
    right = expected(x, mean, var, weight, bias, training, "silu", torch.ones_like(x))
    for wanted in range(3):
        leaves = [x.detach(), weight.detach(), bias.detach()]
        leaves[wanted].requires_grad_()
        y = batch_norm(
            leaves[0], mean.clone(), var.clone(), *leaves[1:], training, 0.1, 1e-5, "silu"
        )
        y.sum().backward()
        assert_close(leaves[wanted].grad, right[3 + wanted], terms=100, scale=100)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("affine", [True, False])
def test_first_and_second_derivatives(training, activation, affine):
    x, mean, var, weight, bias = arguments((2, 3, 2, 3), torch.float64)

    def normalise(x, *affine):
        return batch_norm(x, mean, var, *affine, training=training, activation=activation)

    parameters = (x, weight, bias) if affine else (x,)
    leaves = [t.requires_grad_() for t in parameters]
    mean, var = (mean, var) if not training else (None, None)
    assert gradcheck(normalise, leaves)
    assert gradgradcheck(normalise, leaves)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(layout, requires_grad):
    x, mean, var, weight, bias = arguments((2, 4, 3, 5), torch.float32)
    x, weight = layout(x).requires_grad_(requires_grad), weight.requires_grad_(requires_grad)
    op = torch.ops.fastconv.batch_norm.default
    opcheck(op, (x, weight, bias, None, None, 1e-5, "relu6"))
    opcheck(op, (x, weight, None, mean, var, 1e-5, None))
    opcheck(op, (x, None, None, mean, var, 1e-5, "silu"))
    backward = torch.ops.fastconv.batch_norm_backward.default
    for training in (True, False):
        settings = (training, 1e-5, "silu", [True, True, True])
        opcheck(backward, (layout(torch.randn(x.shape)), x, weight, bias, mean, var, *settings))


@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_same_bits_on_any_threads(layout):
    x, _, _, weight, bias = arguments((3, 24, 90, 91), torch.float32)
    x, grad = layout(x).requires_grad_(), layout(torch.randn(x.shape))

    def step():
        y = batch_norm(x, None, None, weight, bias, True, activation="silu")
        return y, *torch.autograd.grad(y, x, grad)

    assert_same_bits_on_any_threads(step)


def test_nan_and_infinity_pass_as_in_torch():
    x = torch.randn(2, 4, 3, 3)
    x[0, 1, 1, 1], x[1, 2, 0, 0] = float("nan"), float("inf")
    mean, var = torch.zeros(4), torch.ones(4)
    for activation in ACTIVATIONS:
        for layout in (contiguous, channels_last):
            for training in (True, False):
                wanted = F.batch_norm(x, mean.clone(), var.clone(), training=training)
                wanted = reference.activate(wanted, activation)
                y = batch_norm(
                    layout(x), mean.clone(), var.clone(), training=training, activation=activation
                )
                torch.testing.assert_close(y, wanted, equal_nan=True)


def test_sixteen_bit_parameters_and_their_gradients():
    x, mean, var, weight, bias = (t.bfloat16() for t in arguments((3, 8, 5, 5), torch.float32))
    weight.requires_grad_()
    y = batch_norm(x, mean, var, weight, bias, True)
    y.sum().backward()
    assert weight.grad.dtype == mean.dtype == y.dtype == torch.bfloat16


def test_autocast_keeps_the_dtype_of_the_input():
    x, mean, var, weight, bias = arguments((2, 3, 4, 4), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert batch_norm(x, mean, var, weight, bias, True).dtype == torch.float32
        assert batch_norm(x.bfloat16(), mean, var, weight, bias, True).dtype == torch.bfloat16


@pytest.mark.parametrize("training", [True, False])
def test_an_empty_batch(training):
    x = torch.empty(0, 3, 4, 4, requires_grad=True)
    theirs = x.detach().clone().requires_grad_()
    for function, leaf in ((batch_norm, x), (F.batch_norm, theirs)):
        function(leaf, torch.zeros(3), torch.ones(3), training=training).sum().backward()
    assert x.grad.shape == theirs.grad.shape


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda f: f(torch.ones(1, 3, 1, 1), None, None, training=True), ValueError),
        (lambda f: f(torch.ones(2, 3, 2, 2), None, None), RuntimeError),
        (lambda f: f(torch.ones(2, 3, 2, 2), torch.ones(4), torch.ones(4)), RuntimeError),
        (lambda f: f(torch.ones(2, 3), torch.ones(3), torch.ones(3), torch.ones(2)), RuntimeError),
        (lambda f: f(torch.ones(2, 3), torch.ones(3).double(), torch.ones(3)), RuntimeError),
        (lambda f: f(1, torch.ones(3), torch.ones(3)), TypeError),
    ],
)
def test_bad_input(call, error):
    for function in (batch_norm, F.batch_norm):
        with pytest.raises(error):
            call(function)


@pytest.mark.parametrize(
    "options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}]
)
def test_layer_is_torchs(options):
    ours, theirs = fastconv.nn.BatchNorm2d(6, **options), nn.BatchNorm2d(6, **options)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for training in (True, True, False):
        x = torch.randn(3, 6, 4, 5)
        y = ours.train(training)(x)
        torch.testing.assert_close(y, theirs.train(training)(x))
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    with pytest.raises(ValueError, match="expected 4D input"):
        ours(torch.ones(3, 6))


def test_layer_with_activation_compiles_and_pickles():
    layer = fastconv.nn.BatchNorm2d(4, activation="relu6")
    assert "activation='relu6'" in repr(layer)
    other = pickle.loads(pickle.dumps(layer))
    compiled = torch.compile(other, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    torch.testing.assert_close(compiled(x), layer(x))
    torch.testing.assert_close(other.state_dict(), layer.state_dict())
    compiled(x).sum().backward()


def test_vmap_over_inputs():
    x = torch.randn(3, 2, 4, 5, 5)
    mean, var = torch.zeros(4), torch.ones(4)

    def normalise(x):
        return batch_norm(x, mean, var, activation="relu")

    torch.testing.assert_close(
        torch.func.vmap(normalise)(x), torch.stack([normalise(image) for image in x])
    )
    gradients = torch.func.vmap(
        torch.func.grad(lambda x: batch_norm(x, None, None, training=True).pow(3).sum())
    )(x)
    assert gradients.shape == x.shape
