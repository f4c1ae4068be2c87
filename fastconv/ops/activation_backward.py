"""activation_backward: the activation's part of every fused op's backward pass."""

from typing import Any

import torch
from torch import Tensor

from fastconv import reference
from fastconv.ops._layout import empty_as
from fastconv.ops._op import BackwardOp, Op


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


def activation_backward_from_mask(grad_output: Tensor, mask: Tensor, channels_last: bool) -> Tensor:
    """The same from the mask of `residual_add_with_mask`, whose output had that memory format."""
    return _from_mask(grad_output, mask, channels_last)


def fake_from_mask(grad_output: Tensor, mask: Tensor, channels_last: bool) -> Tensor:
    wanted = reference.mask_bytes(grad_output.numel())
    if mask.dtype != torch.uint8 or mask.numel() != wanted or not mask.is_contiguous():
        raise RuntimeError(
            f"activation_backward_from_mask: expected mask of {wanted} bytes, got "
            f"{tuple(mask.shape)} of {mask.dtype}"
        )
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty_like(grad_output, memory_format=memory_format)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, mask, ctx.channels_last = inputs
    ctx.save_for_backward(mask)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    """The gradient is linear in grad_output: the same mask again."""
    (mask,) = ctx.saved_tensors
    return activation_backward_from_mask(grad, mask, ctx.channels_last), None, None


_from_mask = Op(
    "activation_backward_from_mask",
    tensors=2,
    reference=reference.activation_backward_from_mask,
    fake=fake_from_mask,
    setup_context=_setup_context,
    backward=_backward,
)
