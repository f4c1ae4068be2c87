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
from fastconv.ops import pack_pointwise_weight, pointwise_conv2d
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

# batch, in, out, height, width: about one tile (8 rows, 1 to 4 vectors of 16, the last one whole,
# in part, or half and shared by two rows), one channel, one pixel with few and many images, several
# groups of tiles, a row of weights as long as a page, a plane of pages.
SHAPES = [
    (2, 3, 5, 4, 7),
    (1, 1, 1, 1, 1),
    (1, 16, 13, 1, 14),
    (2, 17, 33, 3, 5),
    (1, 5, 49, 7, 7),
    (3, 33, 65, 1, 1),
    (1, 130, 600, 6, 5),
    (1, 40, 1024, 3, 3),
    (1, 19, 24, 5, 9),
    (2, 6, 40, 3, 7),
    (1, 12, 8, 1, 33),
    (2, 20, 130, 1, 1),
    (16, 37, 23, 1, 1),
    (17, 9, 20, 1, 1),
    (2, 9, 43, 16, 64),
]
STRIDES = [(1, 1), (2, 2), (1, 3)]


def make(shape, dtype=torch.float32, layout=contiguous, stride=(1, 1)):
    """input, weight, bias, residual of a call whose sums stay near one."""
    batch, in_channels, out_channels, height, width = shape
    out = (batch, out_channels, -(-height // stride[0]), -(-width // stride[1]))
    x = layout(torch.randn(batch, in_channels, height, width).to(dtype))
    weight = (torch.randn(out_channels, in_channels, 1, 1) / in_channels**0.5).to(dtype)
    return x, weight, torch.randn(out_channels).to(dtype), layout(torch.randn(out).to(dtype))


def expectation(x, weight, bias=None, residual=None, stride=(1, 1), activation=None):
    tensors = (None if t is None else t.double() for t in (x, weight, bias, residual))
    return reference.pointwise_conv2d(*tensors, stride, activation)


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("shape", SHAPES)
def test_values(shape, layout, dtype, name):
    for stride in STRIDES:
        x, weight, bias, residual = make(shape, dtype, layout, stride)
        with isa(name):
            y = pointwise_conv2d(x, weight, bias, residual, stride, "relu6")
            bare = pointwise_conv2d(x, weight, stride=stride)
            packed = pointwise_conv2d(x, pack_pointwise_weight(weight), bias, residual, stride)
        terms = shape[1] + 2
        expected = expectation(x, weight, bias, residual, stride, "relu6")
        assert_close(y, expected, terms, scale=4)
        assert_close(bare, expectation(x, weight, stride=stride), terms, scale=4)
        assert_close(packed, expectation(x, weight, bias, residual, stride), terms, scale=4)
        assert y.stride() == residual.stride()


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation, dtype, name):
    for layout in (contiguous, channels_last):
        x, weight, bias, residual = make((2, 8, 37, 5, 9), dtype, layout)
        with isa(name):
            y = pointwise_conv2d(4 * x, weight, bias, residual, activation=activation)
        expected = expectation(4 * x, weight, bias, residual, activation=activation)
        assert_close(y, expected, terms=10, scale=16)


def test_variants():
    x, weight, bias, _ = make((1, 24, 40, 5, 5))
    with reaches("pointwise_conv2d.nchw"):
        pointwise_conv2d(x, weight, bias)
    x = channels_last(x)
    with reaches("pointwise_conv2d.nhwc_packing"):
        unpacked = pointwise_conv2d(x, weight, bias)
    with reaches("pointwise_conv2d.nhwc"):
        packed = pointwise_conv2d(x, pack_pointwise_weight(weight), bias)
    assert torch.equal(unpacked, packed)
    for layout, row in [(contiguous, "nchw"), (channels_last, "nhwc")]:
        with reaches(f"pointwise_conv2d.weight_gradient_{row}"):
            pointwise_conv2d(layout(x), weight.clone().requires_grad_()).sum().backward()


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("images", [1, 2, 3, 4, 7, 16])
def test_classifier(images, dtype, name):
    x, weight, bias, residual = make((images, 83, 77, 1, 1), dtype)
    # A row longer than what is read of it, and a number of channels that halves.
    rows = torch.zeros(77, 90, 1, 1, dtype=dtype)
    rows[:, :83] = weight
    with isa(name):
        even = (x[:, :82].contiguous(), rows[:, :82], bias)
        for arguments in (even, (x, rows[:, :83], bias), (x, weight, bias, residual)):
            with reaches("pointwise_conv2d.nhwc_dots"):
                y = pointwise_conv2d(*arguments, activation="silu")
            expected = expectation(*arguments, activation="silu")
            assert_close(y, expected, terms=85, scale=4)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_output_written_past_the_caches(layout):
    x, weight, bias, residual = make((1, 4, 400, 104, 104), layout=layout)
    for channels in (400, 399):  # whole vectors and not
        arguments = x, weight[:channels], bias[:channels], layout(residual[:, :channels])
        assert_close(pointwise_conv2d(*arguments), expectation(*arguments), terms=6, scale=4)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("weight_layout", [*LAYOUTS[:3], pack_pointwise_weight, "slice", "expand"])
def test_any_strides(layout, weight_layout):
    x, weight, bias, residual = make((2, 6, 5, 6, 7))
    if weight_layout == "slice":
        weight = torch.randn(10, 13, 1, 1)[::2, 1::2]
    elif weight_layout == "expand":
        weight = torch.randn(1, 6, 1, 1).expand(5, 6, 1, 1)
    else:
        weight = weight_layout(weight)
    x, bias = layout(x), torch.randn(10)[::2]
    y = pointwise_conv2d(x, weight, bias, residual)
    assert_close(y, expectation(x, weight, bias, residual), terms=8, scale=4)
    last = layout is channels_last
    assert y.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def test_unbatched_and_empty():
    x, weight, bias, residual = make((1, 6, 5, 3, 4))
    y = pointwise_conv2d(x[0], weight, bias, residual[0], activation="relu")
    assert torch.equal(y, pointwise_conv2d(x, weight, bias, residual, activation="relu")[0])
    for layout in (contiguous, channels_last):
        empty = layout(x[:0]).requires_grad_()
        w, b = weight.clone().requires_grad_(), bias.clone().requires_grad_()
        y = pointwise_conv2d(empty, w, b)
        y.sum().backward()
        assert y.shape == (0, 5, 3, 4)
        assert not w.grad.any()
        assert not b.grad.any()
        assert empty.grad.shape == empty.shape


def test_nan_and_infinity_pass_as_in_torch():
    values = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e38, -2.0, 0.0])
    x = values.repeat(2, 3).reshape(1, 2, 3, 6)
    weight = torch.tensor([[1.0, 0.0], [10.0, 0.0], [-1.0, 1.0]])[:, :, None, None]
    for layout in (contiguous, channels_last):
        for activation in ACTIVATIONS:
            y = pointwise_conv2d(layout(x), weight, activation=activation)
            expected = reference.activate(F.conv2d(x, weight), activation)
            torch.testing.assert_close(y, expected, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("shape", [*SHAPES[:6], (2, 70, 40, 20, 20), (5, 4, 6, 17, 19)])
def test_gradients(shape, layout, dtype):
    for name in ISAS:
        for stride in STRIDES[:2]:
            tensors = [t.requires_grad_() for t in make(shape, dtype, layout, stride)]
            doubles = [t.detach().double().clone().requires_grad_() for t in tensors]
            expected = reference.pointwise_conv2d(*doubles, stride)
            grad = layout(torch.randn(expected.shape).to(dtype))
            expected.backward(grad.double())
            with isa(name):
                pointwise_conv2d(*tensors, stride).backward(grad)
            pixels = shape[0] * shape[3] * shape[4]
            all_terms = (shape[2], pixels, pixels, 1)
            for ours, theirs, terms in zip(tensors, doubles, all_terms, strict=True):
                scale = 4 * (pixels**0.5 if terms == pixels else 1)
                assert_close(ours.grad, theirs.grad, terms, scale)
                assert ours.grad.stride() == ours.stride() or 1 in ours.shape


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_gradient_of_a_sum(layout, activation):
    tensors = [t.requires_grad_() for t in make((2, 6, 20, 5, 7), layout=layout)]
    tensors[1] = pack_pointwise_weight(tensors[1].detach()).requires_grad_()
    doubles = [t.detach().double().requires_grad_() for t in tensors]
    pointwise_conv2d(*tensors, activation=activation).sum().backward()  # a gradient of stride 0
    reference.pointwise_conv2d(*doubles, (1, 1), activation).sum().backward()
    for ours, theirs in zip(tensors, doubles, strict=True):
        assert_close(ours.grad, theirs.grad, terms=90, scale=8)
        assert ours.grad.stride() == ours.stride()


def test_only_the_gradients_wanted():
    x, weight, bias, _ = make((2, 3, 5, 4, 4))
    y = pointwise_conv2d(x, weight, bias.requires_grad_())
    y.sum().backward()
    assert_close(bias.grad, torch.full((5,), 32.0).double(), terms=32, scale=32)
    empty = torch.ops.fastconv.pointwise_conv2d_backward(y, x, weight, (1, 1), (False, True, False))
    assert [t.numel() for t in empty] == [0, 15, 0]


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
@pytest.mark.parametrize("stride", [1, (2, 1)])
def test_first_and_second_derivatives(stride, activation):
    shapes = ((2, 3, 3, 4), (2, 3, 1, 1), (2,), (2, 2, 3 if stride == 1 else 2, 4))
    tensors = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    assert gradcheck(pointwise_conv2d, (*tensors, stride, activation))
    assert gradgradcheck(pointwise_conv2d, (*tensors, stride, activation), fast_mode=True)
    assert gradcheck(lambda x, w: pointwise_conv2d(x, w, stride=stride), tuple(tensors[:2]))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(layout, requires_grad):
    x, weight, bias, residual = (t.requires_grad_(requires_grad) for t in make((2, 4, 6, 3, 5)))
    x = layout(x.detach()).requires_grad_(requires_grad)
    op, backward = (
        torch.ops.fastconv.pointwise_conv2d.default,
        torch.ops.fastconv.pointwise_conv2d_backward.default,
    )
    opcheck(op, (x, weight, bias, residual, (1, 1), "relu6"))
    opcheck(op, (x, pack_pointwise_weight(weight), None, None, (2, 1), "silu"))
    packed = pack_pointwise_weight(weight)
    opcheck(backward, (residual, x, weight, (1, 1), (True, True, True)))
    opcheck(backward, (residual[:, :, ::2], x, packed, (2, 1), (True, True, False)))
    opcheck(backward, (residual, x, weight, (1, 1), (False, False, True)))


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_on_any_threads(dtype, layout):
    for shape in [(2, 40, 80, 40, 40), (1, 300, 500, 7, 7), (2, 500, 300, 1, 1)]:
        x, weight, bias, residual = make(shape, dtype, layout)
        backward = torch.ops.fastconv.pointwise_conv2d_backward
        mask = (True, True, True)
        for activation in ("relu6", "silu"):
            forward = partial(pointwise_conv2d, x, weight, bias, residual, activation=activation)
            assert_same_bits_on_any_threads(forward)
        assert_same_bits_on_any_threads(partial(backward, residual, x, weight, (1, 1), mask))


def test_vmap():
    x, weight, bias, residual = make((6, 4, 5, 3, 3))
    expected = pointwise_conv2d(x, weight, bias, residual)
    two = torch.func.vmap(pointwise_conv2d, (0, None, None, 0))(
        x.unflatten(0, (3, 2)), weight, bias, residual.unflatten(0, (3, 2))
    )
    one = torch.func.vmap(pointwise_conv2d, (0, None, None, 0))(x, weight, bias, residual)
    torch.testing.assert_close(two.flatten(0, 1), expected)
    torch.testing.assert_close(one, expected)
    weights = torch.randn(3, 5, 4, 1, 1)
    each = torch.func.vmap(pointwise_conv2d, (None, 0))(x, weights)
    torch.testing.assert_close(each, torch.stack([pointwise_conv2d(x, w) for w in weights]))
    per_sample = torch.func.vmap(
        torch.func.grad(lambda w, x: pointwise_conv2d(x, w, activation="silu").sum()), (None, 0)
    )(weight, x)
    total = torch.func.grad(lambda w: pointwise_conv2d(x, w, activation="silu").sum())(weight)
    torch.testing.assert_close(per_sample.sum(0), total)


def test_autocast_and_other_dtypes():
    x, weight, bias, residual = make((2, 8, 6, 5, 5))
    with torch.autocast("cpu", torch.bfloat16):
        y = pointwise_conv2d(x, weight, bias, residual)
    assert y.dtype == torch.bfloat16
    x, weight = torch.ones(1, 2, 3, 3, dtype=torch.int64), torch.ones(4, 2, 1, 1, dtype=torch.int64)
    assert torch.equal(pointwise_conv2d(x, weight), F.conv2d(x, weight))


def test_flops_are_those_of_torch():
    def flops(function):
        x, weight, bias, _ = (t.requires_grad_() for t in make((2, 3, 5, 4, 6)))
        with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
            function(x, weight, bias, stride=2).sum().backward()
        return counter.get_total_flops()

    ours = flops(lambda x, weight, bias, stride: pointwise_conv2d(x, weight, bias, None, stride))
    assert ours == flops(F.conv2d)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_shape(data):
    shape = [data.draw(st.integers(1, most)) for most in (3, 70, 110, 9, 20)]
    stride = data.draw(st.sampled_from(STRIDES))
    layout, dtype = data.draw(st.sampled_from(LAYOUTS)), data.draw(st.sampled_from(DTYPES))
    x, weight, bias, residual = make(shape, dtype, layout, stride)
    y = pointwise_conv2d(x, weight, bias, residual, stride)
    expected = expectation(x, weight, bias, residual, stride)
    assert_close(y, expected, shape[1] + 2, scale=4)


X, W = torch.ones(1, 4, 3, 3), torch.ones(2, 4, 1, 1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1, W), TypeError, "argument 'input' must be Tensor, not int"),
        ((X, None), TypeError, "argument 'weight' must be Tensor, not NoneType"),
        ((X, W, [1, 2]), TypeError, "argument 'bias' must be Tensor, not list"),
        ((X, W, None, 3.0), TypeError, "argument 'residual' must be Tensor, not float"),
        ((X, W, None, None, 1.5), TypeError, "argument 'stride' must be int"),
        ((X, W, None, None, "1"), TypeError, "argument 'stride' must be int"),
        ((X, W, None, None, (1, 1, 1)), RuntimeError, "expected stride of one or two"),
        ((X, W, None, None, 0), RuntimeError, r"stride.*got \(0, 0\)"),
        ((X, W, None, None, -1), RuntimeError, r"stride.*got \(-1, -1\)"),
        ((X[0, 0], W), RuntimeError, "input with 4 dimensions, got 2"),
        ((X, W[0]), RuntimeError, "weight with 4 dimensions, got 3"),
        ((X, torch.ones(2, 3, 1, 1)), RuntimeError, r"\(out_channels, 4, 1, 1\).*\(2, 3, 1, 1\)"),
        ((X, torch.ones(2, 4, 3, 3)), RuntimeError, r"got \(2, 4, 3, 3\)"),
        ((X, W.double()), RuntimeError, "weight of the dtype of input"),
        ((X, W, torch.ones(3)), RuntimeError, r"bias of shape \(2\), got \(3\)"),
        ((X, W, torch.ones(2).half()), RuntimeError, "bias of the dtype"),
        ((X, W, None, X), RuntimeError, r"residual of shape \(1, 2, 3, 3\), got \(1, 4, 3, 3\)"),
        ((X, W, None, None, 1, "tanh"), RuntimeError, "got 'tanh'"),
        ((X[:, :0], W[:, :0]), RuntimeError, "channels"),
        ((X[:, :, :0], W), RuntimeError, "pixels"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        pointwise_conv2d(*arguments)


def test_layer():
    torch.manual_seed(1)
    theirs = torch.nn.Conv2d(4, 6, 1, stride=2)
    torch.manual_seed(1)
    ours = fastconv.nn.PointwiseConv2d(4, 6, stride=2, activation="relu6")
    assert repr(ours) == repr(theirs).replace("Conv2d", "PointwiseConv2d").replace(
        "2))", "2), activation='relu6')"
    )
    assert repr(fastconv.nn.PointwiseConv2d(4, 6, bias=False)).endswith("bias=False)")
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value)
    x, r = torch.randn(2, 4, 5, 5), torch.randn(2, 6, 3, 3)
    torch.testing.assert_close(ours(x, r), F.relu6(theirs(x) + r))
    assert fastconv.nn.PointwiseConv2d(3, 4, dtype=torch.float64).weight.dtype == torch.float64
