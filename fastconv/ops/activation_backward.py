"""activation_backward: the activation's part of every fused op's backward pass."""

from torch import Tensor

from fastconv import reference
from fastconv.ops._layout import empty_as
from fastconv.ops._op import BackwardOp


def activation_backward(grad_output: Tensor, z: Tensor, activation: str | None) -> Tensor:
    """grad_output times the activation's derivative at z, both of one shape and dtype.

    z is the pre-activation; for ReLU and ReLU6 the output serves as well, so nothing else is saved.
    """
    return grad_output if activation is None else _op(grad_output, z, activation)


def fake(grad_output: Tensor, z: Tensor, activation: str | None = None) -> Tensor:
    return empty_as(z, z.shape)


_op = BackwardOp(
    "activation_backward", tensors=2, reference=reference.activation_backward, fake=fake
)
