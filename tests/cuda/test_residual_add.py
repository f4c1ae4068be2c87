import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from fastconv import ops, reference
from fastconv.ops._op import OPS
from tests.cuda.emulator import ORDERS, emulated, launches
from tests.helpers import ACTIVATIONS, DTYPES, LAYOUTS, assert_close, channels_last, contiguous

# Below, at and above a pack, a block and a block's packs.
SHAPES = [(1,), (2, 3, 5, 7), (1, 17, 1, 1), (3, 8, 33, 33), (4096,), (0, 4, 2, 2)]
WITH_MASK = OPS["residual_add_with_mask"]
SHORTCUTS = [
    ((2, 9, 5, 7), (2, 4, 5, 7)),
    ((1, 40, 3, 5), (1, 20, 6, 9)),
    ((1, 6, 2, 2), (1, 1, 5, 6)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values(shape, activation, dtype):
    x, r = (3 * torch.randn(shape)).to(dtype), (3 * torch.randn(shape)).to(dtype)
    with emulated():
        y = ops.residual_add(x, r, activation)
    assert_close(y, reference.residual_add(x.double(), r.double(), activation), terms=4, scale=20)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "residual_shape"), SHORTCUTS)
def test_shortcut(shape, residual_shape, dtype, layout):
    x, r = layout(torch.randn(shape).to(dtype)), layout(torch.randn(residual_shape).to(dtype))
    with emulated():
        y = ops.residual_add(x, r)
    assert y.stride() == x.stride()
    assert_close(y, reference.residual_add(x.double(), r.double(), "relu"), scale=4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides(layout):
    x, r = layout(torch.randn(2, 5, 6, 7)), layout(torch.randn(2, 5, 6, 7))
    with emulated(), launches("residual_add_same_size"):
        y = ops.residual_add(x, r)
    assert_close(y, reference.residual_add(x.double(), r.double(), "relu"), scale=4)


@pytest.mark.parametrize("offset", [1, 2, 3])
def test_misaligned_memory(offset):
    x, r = torch.randn(2, 531 + offset)[:, offset:].unbind()
    with emulated():
        y = ops.residual_add(x, r)
    assert_close(y, torch.relu(x.double() + r.double()), scale=4)


@pytest.mark.parametrize("activation", ACTIVATIONS[1:])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients(dtype, activation):
    x = (3 * torch.randn(2, 9, 5, 7)).to(dtype).requires_grad_()
    r = (3 * torch.randn(2, 9, 5, 7)).to(dtype).requires_grad_()
    with emulated(), launches("activation_backward_elementwise"):
        ops.residual_add(x, r, activation).sum().backward()
    z = (x.double() + r.double()).to(dtype).double().detach().requires_grad_()
    reference.activate(z, activation).sum().backward()
    assert_close(x.grad, z.grad, terms=8, scale=4)
    assert torch.equal(x.grad, r.grad)


# Ends within a byte, a pack, a warp, a block.
@pytest.mark.parametrize("elements", [1, 7, 9, 127, 129, 1023, 4097, 8193])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bit_an_element_serves_the_backward_pass(dtype, aligned, elements):
    x, r, g = (4 * torch.randn(3, elements + 1)).to(dtype)[:, not aligned :].unbind()
    with emulated(), launches("residual_add_same_size_with_mask"):
        y, mask = torch.ops.fastconv.residual_add_with_mask(x, r, "relu6")
    expected, bits = reference.residual_add_with_mask(x, r, "relu6")
    assert torch.equal(y, expected)
    assert torch.equal(mask, bits)
    with emulated(), launches("activation_backward_from_mask"):
        actual = torch.ops.fastconv.activation_backward_from_mask(g, mask, False)
    assert torch.equal(actual, reference.activation_backward(g, y, "relu6"))


@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_training_keeps_a_bit_an_element(layout):
    x, r = (layout(torch.randn(2, 5, 6, 7)).requires_grad_() for _ in range(2))
    kept = []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with emulated():
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            y, _ = WITH_MASK(x, r, "relu")
        assert [(t.dtype, t.numel()) for t in kept] == [(torch.uint8, 1024)]
        g = torch.randn_like(y)
        y.mul_(2).backward(g)  # it may change in place
    assert torch.equal(x.grad, 2 * g * (x + r > 0))
    assert x.grad.stride() == x.stride()


def test_derivatives_by_mask():
    x, r = (torch.randn(1, 4, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    with emulated():
        assert gradcheck(lambda x, r: WITH_MASK(x, r, "relu")[0], (x, r))
        assert gradgradcheck(lambda x, r: WITH_MASK(x, r, "relu")[0], (x, r))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(layout):
    x, r = (layout(torch.randn(2, 4, 3, 5)).requires_grad_() for _ in range(2))
    mask = torch.randint(0, 256, (1024,), dtype=torch.uint8)
    with emulated():
        opcheck(WITH_MASK.raw, (x, r, "relu6"))
        for last in (False, True):
            opcheck(OPS["activation_backward_from_mask"].raw, (x, mask, last))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_bad_masks(device):
    x = torch.ones(3, 4, device=device)
    mask = torch.zeros(1024, dtype=torch.uint8, device=device)
    with emulated():
        with pytest.raises(RuntimeError, match="'relu' or 'relu6'"):
            WITH_MASK(x, x, "silu")
        with pytest.raises(RuntimeError, match="residual of input's shape"):
            WITH_MASK(x, x[:2], "relu")
        for wrong in (mask[1:], mask.bfloat16(), torch.stack([mask, mask], 1)[:, 0]):
            with pytest.raises(RuntimeError, match="mask of 1024 bytes"):
                OPS["activation_backward_from_mask"](x, wrong, False)


def test_nan_and_infinity_pass_as_in_torch():
    values = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e38, -7.0])
    x, r = values.repeat_interleave(7), values.repeat(7)
    for activation in ACTIVATIONS:
        expected = reference.residual_add(x, r, activation)
        with emulated():
            actual = ops.residual_add(x, r, activation)
        torch.testing.assert_close(actual, expected, equal_nan=True)


@pytest.mark.parametrize("order", ORDERS)
def test_threads_take_turns_in_any_order(order):
    x, r = torch.randn(3000), torch.randn(3000)
    with emulated(order):
        y = ops.residual_add(x, r)
    assert torch.equal(y, torch.relu(x + r))
