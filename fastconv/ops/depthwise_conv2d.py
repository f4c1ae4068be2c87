"""depthwise_conv2d: activation(conv2d with filters of each channel's own + bias) in one pass."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fastconv import reference
from fastconv.ops._check import check_bias_shape, check_like_input, check_weight
from fastconv.ops._layout import channels_fastest, empty_as
from fastconv.ops._op import BackwardOp, Op
from fastconv.ops._window import IntPair, edges, output_sizes, pair
from fastconv.ops.activation_backward import activation_backward


def depthwise_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntPair = 1,
    padding: str | IntPair = 0,
    dilation: IntPair = 1,
    activation: str | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """activation(torch.nn.functional.conv2d(..., groups=C) + bias).

    The depthwise half of the depthwise separable convolution: Sifre, "Rigid-motion scattering for
    image classification", 2014; Howard et al., "MobileNets", equation 3 (arXiv 1704.04861).

    Args:
        input: (N, C, H, W) or (C, H, W); float32, float64, bfloat16 or float16.
        weight: (C * m, 1, kh, kw), m >= 1: output channel k reads input channel k // m. Its strides
            are free; those of :func:`pack_depthwise_weight` save a copy for channels_last inputs.
        bias: (C * m) or None.
        stride, dilation: an integer or (rows, columns).
        padding: an integer, (rows, columns), 'same', 'valid', or (top, left, bottom, right).
        activation: None, 'relu', 'relu6', 'silu' or 'hardswish'.
        out: a tensor to write the result to, of its shape, dtype and memory format, apart from the
            inputs in memory; not where a gradient is wanted.

    Returns:
        (N, C * m, H', W'), or without N as input, in the memory format of input;
        H' = (H + top + bottom - dilation * (kh - 1) - 1) // stride + 1.

    Raises:
        TypeError: an argument is of the wrong Python type.
        RuntimeError: shapes, dtypes or devices do not fit, the kernel is larger than the padded
            input, stride or dilation is below 1, padding is negative or 'same' with a stride, or
            the activation is unknown.
    """
    stride = pair("depthwise_conv2d", "stride", stride)
    dilation = pair("depthwise_conv2d", "dilation", dilation)
    padding = edges("depthwise_conv2d", padding, weight, stride, dilation)
    return _op.run(input, weight, bias, stride, padding, dilation, activation, out=out)


def pack_depthwise_weight(weight: Tensor) -> Tensor:
    """weight, of shape (C, 1, kh, kw), stored as (kh, kw, C): the order channels_last kernels read.

    The same shape and values with other strides, for weights that stay as they are.

    Raises:
        TypeError: weight is not a tensor.
        RuntimeError: it has another number of dimensions, or no channels.
    """
    check_weight("pack_depthwise_weight", weight, "(out_channels, 1, kh, kw)")
    return channels_fastest(weight)


def fake(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    activation: str | None = None,
) -> Tensor:
    if input.dim() != 4 or weight.dim() != 4:
        raise RuntimeError(
            "depthwise_conv2d: expected input and weight with 4 dimensions, got "
            f"{tuple(input.shape)} and {tuple(weight.shape)}"
        )
    check_like_input("depthwise_conv2d", input, weight=weight, bias=bias)
    reference.check_activation(activation)
    channels = input.shape[1]
    if channels == 0 or weight.shape[1] != 1 or weight.shape[0] % channels or 0 in weight.shape:
        raise RuntimeError(
            f"depthwise_conv2d: expected weight of shape ({channels} * m, 1, kh, kw) for input "
            f"{tuple(input.shape)}, got {tuple(weight.shape)}"
        )
    check_bias_shape("depthwise_conv2d", bias, weight.shape[0])
    window = (stride, padding, dilation)
    rows, columns = output_sizes("depthwise_conv2d", input.shape[2:], weight.shape[2:], *window)
    return empty_as(input, (input.shape[0], weight.shape[0], rows, columns))


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, bias, *ctx.window, ctx.activation = inputs
    saved = [input, weight]
    if ctx.activation in ("relu", "relu6"):
        saved.append(output)  # serves as z: both have the same derivative
    elif ctx.activation is not None and bias is not None:
        saved.append(bias)
    ctx.save_for_backward(*saved)


def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    input, weight, *rest = ctx.saved_tensors
    grad = grad_output
    if ctx.activation in ("relu", "relu6"):
        grad = activation_backward(grad_output, rest[0], ctx.activation)
    elif ctx.activation is not None:
        z = _op.recompute(input, weight, rest[0] if rest else None, *ctx.window, None)
        grad = activation_backward(grad_output, z, ctx.activation)

    grad_input = grad_weight = grad_bias = None
    of_sums = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
    if ctx.needs_input_grad[0] and of_sums:
        grad_input, grad_weight, grad_bias = _backward(grad, input, weight, *ctx.window)
    elif ctx.needs_input_grad[0]:
        grad_input = _backward_input(grad, input, weight, *ctx.window)
    elif of_sums:
        grad_weight, grad_bias = _backward_weight(grad, input, weight, *ctx.window)
    if not ctx.needs_input_grad[2]:
        grad_bias = None
    return grad_input, grad_weight, grad_bias, None, None, None, None


def fake_backward_input(
    grad_output: Tensor, input: Tensor, weight: Tensor, *_window: Sequence[int]
) -> Tensor:
    return empty_as(input, input.shape)


def fake_backward_weight(
    grad_output: Tensor, input: Tensor, weight: Tensor, *_window: Sequence[int]
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(weight), weight.new_empty(weight.shape[0])


def fake_backward(
    grad_output: Tensor, input: Tensor, weight: Tensor, *window: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    tensors = (grad_output, input, weight)
    return fake_backward_input(*tensors, *window), *fake_backward_weight(*tensors, *window)


_op = Op(
    "depthwise_conv2d",
    tensors=3,
    reference=reference.depthwise_conv2d,
    fake=fake,
    setup_context=setup_context,
    backward=backward,
    batched=(0,),
    autocast=True,
    unbatched=True,
)
_backward_input = BackwardOp(
    "depthwise_conv2d_backward_input",
    tensors=3,
    reference=reference.depthwise_conv2d_backward_input,
    fake=fake_backward_input,
)
_backward_weight = BackwardOp(
    "depthwise_conv2d_backward_weight",
    tensors=3,
    reference=reference.depthwise_conv2d_backward_weight,
    fake=fake_backward_weight,
)

_backward = BackwardOp(
    "depthwise_conv2d_backward",
    tensors=3,
    reference=reference.depthwise_conv2d_backward,
    fake=fake_backward,
)


@register_flop_formula(torch.ops.fastconv.depthwise_conv2d)
def flops(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    *_args: object,
    out_shape: Sequence[int],
    **_kwargs: object,
) -> int:
    """Two a tap and output, as torch counts convolutions; bias and activation count nothing."""
    return 2 * torch.Size(out_shape).numel() * weight_shape[2] * weight_shape[3]


@register_flop_formula(
    [
        torch.ops.fastconv.depthwise_conv2d_backward_input,
        torch.ops.fastconv.depthwise_conv2d_backward_weight,
    ]
)
def backward_flops(
    grad_output_shape: Sequence[int],
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    *_args: object,
    **_kwargs: object,
) -> int:
    """Each gradient takes what the forward pass takes."""
    return 2 * torch.Size(grad_output_shape).numel() * weight_shape[2] * weight_shape[3]


@register_flop_formula(torch.ops.fastconv.depthwise_conv2d_backward)
def both_flops(*shapes: Sequence[int], **_kwargs: object) -> int:
    return 2 * backward_flops(*shapes)
