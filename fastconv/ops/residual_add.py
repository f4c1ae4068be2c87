"""residual_add: activation(input + residual) in one pass, with the zero-padded shortcut."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils.flop_counter import register_flop_formula

from fastconv import reference
from fastconv.layout import memory_format_of
from fastconv.ops._check import check_like_input, check_tensors
from fastconv.ops._layout import empty_as
from fastconv.ops._op import Op, differentiates
from fastconv.ops.activation_backward import (
    activation_backward,
    activation_backward_from_mask,
)


def residual_add(
    input: Tensor,
    residual: Tensor,
    activation: str | None = "relu",
    *,
    out: Tensor | None = None,
) -> Tensor:
    """activation(input + residual), a[l+2] = g(z[l+2] + a[l]) of He et al. 2015 (arXiv 1512.03385).

    Args:
        input: any shape; (N, C, H, W) where the residual differs in size.
        residual: the shape of input, or (N, C', H', W') with C' <= C and H = ceil(H' / s),
            W = ceil(W' / s) for one whole stride s: then every s-th pixel is taken and the missing
            channels are zero (shortcut A of the paper).
        activation: None, 'relu', 'relu6', 'silu' or 'hardswish'.
        out: a tensor to write the result to, of its shape, dtype and memory format, apart from the
            inputs in memory; not where a gradient is wanted.

    Returns:
        A tensor of the shape and memory format of input, in torch's promoted dtype.

    Raises:
        TypeError: an argument is not a tensor.
        RuntimeError: the shapes do not fit, the devices differ or the activation is unknown.
    """
    check_tensors("residual_add", input=input, residual=residual)
    if input.dtype != residual.dtype:
        dtype = torch.promote_types(input.dtype, residual.dtype)
        input, residual = input.to(dtype), residual.to(dtype)
    if out is None and activation in reference.RECTIFIERS and _trains(input, residual):
        return _with_mask(input, residual, activation)[0]
    return _op.run(input, residual, activation, out=out)


_masked_devices = {"cuda"}


@contextmanager
def masks_on(device: str) -> Iterator[None]:
    """Has training on a type of device keep masks within the block, to plan what a GPU would do."""
    before = device in _masked_devices
    _masked_devices.add(device)
    try:
        yield
    finally:
        if not before:
            _masked_devices.remove(device)


def _trains(input: Tensor, residual: Tensor) -> bool:
    """Whether a mask is to be kept in place of the output, for 1/32 of its bytes or 1/16.

    The backward pass then moves two thirds of the bytes. On a CPU that gained nothing: with it
    16x256x56x56 took 7.4 ms in place of 7.1, in bfloat16 2.04 in place of 1.98 (Zen 5, 2 threads).
    """
    if not differentiates(input, residual):
        return False
    if input.device.type not in _masked_devices or input.device != residual.device:
        return False
    if input.shape != residual.shape:
        return False
    if torch._C._are_functorch_transforms_active() or torch._C._get_tracing_state():
        return False
    if is_traceable_wrapper_subclass(input):  # a DTensor's parts have masks of their own
        return False
    return not torch.compiler.is_exporting()


def fake(input: Tensor, residual: Tensor, activation: str | None = None) -> Tensor:
    check_like_input("residual_add", input, residual=residual)
    reference.check_activation(activation)
    if input.shape != residual.shape:
        reference.zero_padded_shortcut(input, residual)  # for its checks
    return empty_as(input, input.shape)


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, residual, ctx.activation = inputs
    ctx.shortcut = None if input.shape == residual.shape else residual.shape
    if ctx.activation in ("relu", "relu6"):
        ctx.save_for_backward(output)
    elif ctx.activation is not None:
        ctx.save_for_backward(input, residual)


def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor, None]:
    grad = grad_output
    if ctx.activation is not None:
        saved = ctx.saved_tensors
        z = saved[0] if len(saved) == 1 else _op.recompute(*saved, None)
        grad = activation_backward(grad_output, z, ctx.activation)
    if ctx.shortcut is None:
        return grad, grad, None
    stride = reference.shortcut_stride(ctx.shortcut[2:], grad.shape[2:])
    grad_residual = grad.new_zeros(ctx.shortcut)
    grad_residual[:, :, ::stride, ::stride] = grad[:, : ctx.shortcut[1]]
    return grad, grad_residual, None


_op = Op(
    "residual_add",
    tensors=2,
    reference=reference.residual_add,
    fake=fake,
    setup_context=setup_context,
    backward=backward,
    batched=(0, 1),
)


def fake_with_mask(input: Tensor, residual: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    reference.check_mask_serves(input, residual, activation)
    output = fake(input, residual, activation)
    mask = output.new_empty(reference.mask_bytes(output.numel()), dtype=torch.uint8)
    return output, mask


def setup_context_with_mask(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    y, mask = output
    ctx.mark_non_differentiable(mask)
    ctx.save_for_backward(mask)
    ctx.channels_last = memory_format_of(y) is torch.channels_last


def backward_with_mask(ctx: Any, grad_output: Tensor, _: None) -> tuple[Tensor, Tensor, None]:
    (mask,) = ctx.saved_tensors
    grad = activation_backward_from_mask(grad_output, mask, ctx.channels_last)
    return grad, grad, None


_with_mask = Op(
    "residual_add_with_mask",
    tensors=2,
    reference=reference.residual_add_with_mask,
    fake=fake_with_mask,
    setup_context=setup_context_with_mask,
    backward=backward_with_mask,
)


@register_flop_formula(torch.ops.fastconv.residual_add)
def flops(
    input_shape: tuple[int, ...],
    residual_shape: tuple[int, ...],
    *_args: object,
    **_kwargs: object,
) -> int:
    """One addition an element; activations count nothing, as in torch's own formulas."""
    return torch.Size(input_shape).numel()
