import pytest
import torch

from fastconv import ops, reference
from tests.cuda.emulator import ORDERS, emulated, launches
from tests.helpers import ACTIVATIONS, DTYPES, LAYOUTS, assert_close, channels_last, contiguous

# Below, at and above a pack, a block and a block's packs.
SHAPES = [(1,), (2, 3, 5, 7), (1, 17, 1, 1), (3, 8, 33, 33), (4096,), (0, 4, 2, 2)]
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
