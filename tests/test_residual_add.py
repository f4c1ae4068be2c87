import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

import fastconv
from fastconv import reference
from fastconv.ops import residual_add
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

# Below, at and above one vector and one work unit.
SHAPES = [(2, 3, 5, 7), (1, 16, 4, 4), (1, 17, 1, 1), (3, 8, 33, 33), (0, 4, 2, 2), (5,), (2, 3)]
# input, residual: fewer channels, a stride, both.
SHORTCUTS = [
    ((2, 9, 5, 7), (2, 4, 5, 7)),
    ((2, 8, 4, 4), (2, 8, 7, 8)),
    ((1, 40, 3, 5), (1, 20, 6, 9)),
    ((1, 6, 2, 2), (1, 1, 5, 6)),
    ((0, 4, 2, 2), (0, 2, 4, 4)),
    ((2, 6, 1, 2), (2, 3, 1, 4)),
    ((2, 6, 3, 1), (2, 3, 5, 2)),
]


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values(shape, activation, dtype, name):
    x, r = (3 * torch.randn(shape)).to(dtype), (3 * torch.randn(shape)).to(dtype)
    with isa(name), reaches("residual_add.same_size"):
        y = residual_add(x, r, activation)
    assert_close(y, reference.residual_add(x.double(), r.double(), activation), terms=4, scale=20)


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("layout", "variant"), [(contiguous, "shortcut_nchw"), (channels_last, "shortcut_nhwc")]
)
@pytest.mark.parametrize(("shape", "residual_shape"), SHORTCUTS)
def test_zero_padded_shortcut(shape, residual_shape, layout, variant, dtype, name):
    x, r = layout(torch.randn(shape).to(dtype)), layout(torch.randn(residual_shape).to(dtype))
    with (
        isa(name),
        reaches(f"residual_add.{variant}" if x.numel() else "residual_add.shortcut_nchw"),
    ):
        y = residual_add(x, r)
    assert_close(y, reference.residual_add(x.double(), r.double(), "relu"), scale=4)


@pytest.mark.parametrize("input_layout", LAYOUTS)
@pytest.mark.parametrize("residual_layout", LAYOUTS)
def test_any_strides(input_layout, residual_layout):
    x, r = input_layout(torch.randn(2, 5, 6, 7)), residual_layout(torch.randn(2, 5, 6, 7))
    y = residual_add(x, r)
    assert_close(y, reference.residual_add(x.double(), r.double(), "relu"), scale=4)
    last = input_layout is channels_last
    assert y.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_results_past_the_caches(dtype, name):
    """Results of 12 MiB and more are stored another way; here from an odd address on."""
    count = (12 << 20) // dtype.itemsize + 21
    x, r = torch.randn(2, count).to(dtype)
    out = torch.empty(count + 3, dtype=dtype)[3:]
    with isa(name):
        residual_add(x, r, "relu6", out=out)
        pairs = zip(x.split(99991), r.split(99991), strict=True)
        parts = [residual_add(*pair, "relu6") for pair in pairs]
    assert torch.equal(out, torch.cat(parts))


def test_nan_and_infinity_pass_as_in_torch():
    values = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e38, -7.0])
    x, r = values.repeat_interleave(7), values.repeat(7)
    for activation in ACTIVATIONS:
        expected = reference.residual_add(x, r, activation)
        torch.testing.assert_close(residual_add(x, r, activation), expected, equal_nan=True)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("shape", "residual_shape"), [*SHORTCUTS, ((2, 3, 5, 7), (2, 3, 5, 7))])
def test_gradients(shape, residual_shape, activation):
    x = torch.randn(shape, requires_grad=True)
    r = torch.randn(residual_shape, requires_grad=True)
    residual_add(x, r, activation).sum().backward()  # the gradient has stride 0
    x64, r64 = (t.detach().double().requires_grad_() for t in (x, r))
    reference.residual_add(x64, r64, activation).sum().backward()
    assert_close(x.grad, x64.grad, terms=8, scale=2)
    assert_close(r.grad, r64.grad, terms=8, scale=2)
    assert x.grad.stride() == x.stride()


def test_gradient_at_the_kinks_and_at_nan_is_torchs():
    z = torch.tensor([0.0, 6.0, 3.0, -3.0, float("nan"), 7.0, -8.0])
    for activation in ACTIVATIONS:
        ours, theirs = z.clone().requires_grad_(), z.clone().requires_grad_()
        residual_add(ours, torch.zeros(7), activation).sum().backward()
        reference.activate(theirs, activation).sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad, equal_nan=True)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", reference.RECTIFIERS)
def test_a_bit_an_element_serves_the_backward_pass(activation, dtype, layout):
    x, r, g = (layout(4 * torch.randn(3, 7, 20, 21)).to(dtype) for _ in range(3))
    y, mask = reference.residual_add_with_mask(x, r, activation)
    assert mask.dtype == torch.uint8
    assert mask.numel() == 2 * 1024
    actual = reference.activation_backward_from_mask(g, mask, layout is channels_last)
    assert torch.equal(actual, reference.activation_backward(g, y, activation))
    assert actual.stride() == y.stride()


@pytest.mark.parametrize("activation", ["silu", "relu", None])
@pytest.mark.parametrize("residual_shape", [(1, 4, 3, 3), (1, 2, 5, 6)])
def test_first_and_second_derivatives(residual_shape, activation):
    x = torch.randn(1, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    r = torch.randn(residual_shape, dtype=torch.float64, requires_grad=True)
    assert gradcheck(residual_add, (x, r, activation))
    assert gradgradcheck(residual_add, (x, r, activation))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(layout, requires_grad):
    x, r = layout(torch.randn(2, 4, 3, 5)), layout(torch.randn(2, 4, 3, 5))
    x, r = x.requires_grad_(requires_grad), r.requires_grad_(requires_grad)
    opcheck(torch.ops.fastconv.residual_add.default, (x, r, "relu6"))
    opcheck(torch.ops.fastconv.residual_add.default, (x, r[:, :2], None))
    opcheck(torch.ops.fastconv.activation_backward.default, (x, r, "silu"))


def test_same_bits_on_any_threads():
    x, r = torch.randn(4, 24, 60, 60), torch.randn(4, 24, 60, 60)
    assert_same_bits_on_any_threads(lambda: residual_add(x, r, "silu"))
    assert_same_bits_on_any_threads(lambda: residual_add(x[:, :, ::2, ::2], r[:, :12]))


def test_vmap_folds_into_the_batch():
    x, r = torch.randn(3, 2, 4, 5, 5), torch.randn(2, 4, 5, 5)
    expected = torch.stack([residual_add(x[i], r) for i in range(3)])
    torch.testing.assert_close(torch.func.vmap(residual_add, (0, None))(x, r), expected)
    moved = torch.func.vmap(residual_add, (2, None), 2)(x.movedim(0, 2), r)
    torch.testing.assert_close(moved.movedim(2, 0), expected)
    gradients = torch.func.vmap(torch.func.grad(lambda x: residual_add(x, r, "silu").sum()))(x)
    z = (x + r).requires_grad_()
    F.silu(z).sum().backward()
    torch.testing.assert_close(gradients, z.grad)


def test_forward_mode_falls_to_the_reference():
    x, r, t = torch.randn(5), torch.randn(5), torch.randn(5)
    _, tangent = torch.func.jvp(lambda x: F.silu(x + r), (x,), (t,))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, t)
        y = torch.autograd.forward_ad.unpack_dual(residual_add(dual, r, "silu"))
    torch.testing.assert_close(y.tangent, tangent)


def test_mixed_dtypes_promote_as_in_torch():
    y = residual_add(torch.randn(4).bfloat16(), torch.randn(4), None)
    assert y.dtype == torch.float32


def test_flops_are_counted():
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        residual_add(torch.randn(2, 3), torch.randn(2, 3))
    assert counter.get_total_flops() == 6


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64])
def test_other_dtypes_fall_to_the_reference(dtype):
    x = torch.ones(3, dtype=dtype)
    assert torch.equal(residual_add(x, x, None), x + x)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1, torch.ones(2)), TypeError, "argument 'input' must be Tensor, not int"),
        ((torch.ones(2), [1, 2]), TypeError, "argument 'residual' must be Tensor, not list"),
        ((torch.ones(2), torch.ones(3)), RuntimeError, r"got \(3\) for input \(2\)|dimensions"),
        ((torch.ones(1, 2, 4, 4), torch.ones(1, 3, 4, 4)), RuntimeError, "fewer channels"),
        ((torch.ones(1, 2, 4, 4), torch.ones(1, 2, 8, 4)), RuntimeError, "whole stride"),
        ((torch.ones(1, 2, 4, 4), torch.ones(2, 2, 4, 4)), RuntimeError, "got"),
        ((torch.ones(2), torch.ones(2), "tanh"), RuntimeError, "got 'tanh'"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        residual_add(*arguments)


def test_a_mask_is_for_a_gpu():
    x, mask = torch.ones(3, 4), torch.zeros(1024, dtype=torch.uint8)
    for call in (
        lambda: torch.ops.fastconv.residual_add_with_mask(x, x, "relu"),
        lambda: torch.ops.fastconv.activation_backward_from_mask(x, mask, False),
    ):
        with pytest.raises(RuntimeError, match="no kernel for a CPU"):
            call()


def test_layer():
    layer = fastconv.nn.ResidualAdd("relu6")
    assert repr(layer) == "ResidualAdd(activation='relu6')"
    assert not layer.state_dict()
    x, r = torch.randn(1, 2, 3, 3), torch.randn(1, 2, 3, 3)
    assert torch.equal(layer(x, r), F.relu6(x + r))
