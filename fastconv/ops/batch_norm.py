"""batch_norm: each channel normalised, scaled and shifted, then an activation."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fastconv import reference
from fastconv.ops._check import check_bools, check_numbers, check_tensors
from fastconv.ops._layout import empty_as
from fastconv.ops._op import BackwardOp, Op
from fastconv.ops.pointwise_batch_norm import NormOfPointwise, convolution_behind


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str | None = None,
) -> Tensor:
    """activation(torch.nn.functional.batch_norm(...)).

    Ioffe & Szegedy 2015 (arXiv 1502.03167), algorithm 1. Nothing but the input and two numbers a
    channel is kept for the backward pass, which computes the activation's derivative again.

    Args:
        input: (N, C, *); float32, float64, bfloat16 or float16.
        running_mean, running_var: (C) or None; with training they are moved in place towards the
            batch's mean and unbiased variance by `momentum`, else the input is normalised by them.
        weight, bias: (C) or None; of the input's dtype, or float32 for 16-bit inputs.
        training: whether the statistics are those of the batch.
        activation: None, 'relu', 'relu6', 'silu' or 'hardswish'.

    Returns:
        A tensor of the shape, dtype and memory format of input.

    Raises:
        TypeError: an argument is of the wrong Python type.
        ValueError: in training with a single value a channel, or eps is negative.
        RuntimeError: shapes, dtypes or devices do not fit, running statistics are missing without
            training, or the activation is unknown.
    """
    check_tensors("batch_norm", input=input)
    if input.dim() < 2:
        raise RuntimeError(
            "batch_norm: expected input with 2 dimensions or more, got "
            f"{input.dim()} in shape {tuple(input.shape)}"
        )
    wide = torch.float64 if input.dtype == torch.float64 else torch.float32
    check_bools("batch_norm", training=training)
    check_numbers("batch_norm", momentum=momentum, eps=eps)
    if eps < 0:
        raise ValueError(f"batch_norm: expected eps from 0, got {eps}")
    _check_parameters(input, wide, running_mean, running_var, weight, bias)
    weight, bias = (_as(wide, t) for t in (weight, bias))
    if not training:
        if running_mean is None or running_var is None:
            raise RuntimeError("batch_norm: expected running_mean and running_var without training")
        given = _as(wide, running_mean), _as(wide, running_var)
        return _op(input, weight, bias, *given, eps, activation)[0]
    count = prod(input.shape) // input.shape[1] if input.shape[1] else 0
    if count == 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {input.size()}"
        )
    if count == 0:
        z = F.batch_norm(input, running_mean, running_var, weight, bias, True, momentum, eps)
        return reference.activate(z, activation)
    if behind := convolution_behind(input, weight, bias):
        with_conv = (*behind, weight, bias, input.detach())
        output, mean, var = NormOfPointwise.apply(*with_conv, eps, activation)
    else:
        output, mean, var = _op(input, weight, bias, None, None, eps, activation)
    with torch.no_grad():
        if running_mean is not None:
            running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
        if running_var is not None:
            running_var.mul_(1 - momentum).add_(var, alpha=momentum * count / (count - 1))
    return output


def _as(dtype: torch.dtype, tensor: Tensor | None) -> Tensor | None:
    """tensor.to(dtype), which torch.export keeps in its graph even where it does nothing."""
    return tensor if tensor is None or tensor.dtype == dtype else tensor.to(dtype)


def _check_parameters(input: Tensor, wide: torch.dtype, *tensors: Tensor | None) -> None:
    names = ("running_mean", "running_var", "weight", "bias")
    for name, tensor in zip(names, tensors, strict=True):
        if tensor is None:
            continue
        check_tensors("batch_norm", **{name: tensor})
        if tensor.dtype not in (input.dtype, wide):
            raise RuntimeError(
                f"batch_norm: expected {name} of dtype {wide} for an input of {input.dtype}, "
                f"got {tensor.dtype}"
            )
        if tensor.device != input.device or tensor.shape != input.shape[1:2]:
            raise RuntimeError(
                f"batch_norm: expected {name} of shape ({input.shape[1]}) on {input.device}, got "
                f"{tuple(tensor.shape)} on {tensor.device}"
            )


def fake(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
    activation: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    reference.check_activation(activation)
    reference.check_batch_norm(input, weight, bias, mean, var)
    size = input.shape[1] if mean is None else 0
    wide = torch.float64 if input.dtype == torch.float64 else torch.float32
    statistics = input.new_empty(size, dtype=wide), input.new_empty(size, dtype=wide)
    return empty_as(input, input.shape), *statistics


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    input, weight, bias, mean, var, ctx.eps, ctx.activation = inputs
    ctx.training = mean is None
    ctx.mark_non_differentiable(*output[1:])
    statistics = output[1:] if ctx.training else (mean, var)
    ctx.save_for_backward(input, weight, bias, *statistics)


def backward(ctx: Any, grad_output: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    mask = list(ctx.needs_input_grad[:3])
    gradients = _backward_op(
        grad_output, *ctx.saved_tensors, ctx.training, ctx.eps, ctx.activation, mask
    )
    wanted = (g if wants else None for g, wants in zip(gradients, mask, strict=True))
    return *wanted, None, None, None, None


def fake_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    training: bool,
    eps: float,
    activation: str | None,
    output_mask: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    for_input = empty_as(input, input.shape) if output_mask[0] else input.new_empty(0)
    return for_input, torch.empty_like(mean), torch.empty_like(mean)


_backward_op = BackwardOp(
    "batch_norm_backward",
    tensors=6,
    reference=reference.batch_norm_backward,
    fake=fake_backward,
)
_op = Op(
    "batch_norm",
    tensors=5,
    reference=reference.batch_norm,
    fake=fake,
    setup_context=setup_context,
    backward=backward,
)


@register_flop_formula([torch.ops.fastconv.batch_norm, torch.ops.fastconv.batch_norm_backward])
def flops(*_args: object, **_kwargs: object) -> int:
    """None, as torch counts none for a batch norm."""
    return 0
