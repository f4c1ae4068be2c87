"""pointwise_conv2d: the 1x1 convolution with bias, residual and activation in one pass."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fastconv import packed_weights, reference
from fastconv.ops._check import check_bias, check_like_input, check_weight
from fastconv.ops._layout import empty_as
from fastconv.ops._op import BackwardOp, Op
from fastconv.ops._window import IntPair, pair
from fastconv.ops.activation_backward import activation_backward

WEIGHT = "(out_channels, in_channels, 1, 1)"


def pointwise_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    stride: IntPair = 1,
    activation: str | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """activation(conv1x1(input) + bias + residual), the pointwise half of a separable convolution.

    The expansion and the linear bottleneck of Sandler et al. 2018 (arXiv 1801.04381, table 1):
    output[n, o, y, x] = activation(sum_c weight[o, c] input[n, c, y s, x s] + bias[o] + residual).

    Args:
        input: (N, C, H, W) or (C, H, W), of float32, float64, bfloat16 or float16.
        weight: (O, C, 1, 1). In memory order (C, O), as :func:`pack_pointwise_weight` leaves it,
            a channels_last input needs no packing at each call; in bfloat16 the int32 weight
            that :func:`pack_pointwise_pairs` makes of it, for inference; else on the CPU what
            :func:`pack_pointwise_panels` makes of it, for inference too.
        bias: (O); beside a bfloat16 input it may be float32, which costs nothing on the CPU. Where
            no kernel reads that (CUDA, few pixels) it is rounded at each call.
        residual: the shape of the output.
        stride: of the pixels read, an int or a pair.
        activation: None, 'relu', 'relu6', 'silu' or 'hardswish'.
        out: a tensor to write the result to, of its shape, dtype and memory format, apart from the
            inputs in memory; not where a gradient is wanted.

    Returns:
        (N, O, ceil(H / s), ceil(W / s)) in input's memory format, unbatched where input is.
        16-bit types accumulate in float32 and are rounded once.

    Raises:
        TypeError: an argument that should be one is not a tensor, or stride no int or pair.
        RuntimeError: shapes, dtypes or devices do not fit, or the activation is unknown.
    """
    stride = pair("pointwise_conv2d", "stride", stride)
    return _op.run(input, weight, bias, residual, stride, activation, out=out)


def pack_pointwise_weight(weight: Tensor) -> Tensor:
    """The same weight, (O, C, 1, 1), in the memory order (C, O) that channels_last inputs read.

    Raises:
        TypeError: weight is not a tensor.
        RuntimeError: it is not (O, C, 1, 1).
    """
    check_weight("pack_pointwise_weight", weight, WEIGHT, (1, 1))
    rows = weight.transpose(0, 1).contiguous()
    # Rows whole pages apart share the same sets of the caches: rows_share_cache_sets in csrc.
    if rows.shape[0] > 1 and rows.shape[1] * rows.element_size() % 4096 == 0:
        rows = F.pad(rows, (0, 0, 0, 0, 0, 16))[:, :-16]
    return rows.transpose(0, 1)


def pack_pointwise_panels(weight: Tensor) -> Tensor:
    """The same weight as (1, O, C) in an order of its own, for inference on the CPU.

    Panels of 32 output channels lie together, each in the memory order (C, 32): a product walks
    through them without a gap. Sixteen channels or fewer at the end join the panel before them.

    Raises:
        TypeError: weight is not a tensor.
        RuntimeError: it is not (O, C, 1, 1).
    """
    check_weight("pack_pointwise_panels", weight, WEIGHT, (1, 1))
    rows = weight.flatten(1).t()
    parts = rows.split(packed_weights.panels_of(weight.shape[0]), dim=1)
    return torch.cat([part.flatten() for part in parts]).view(1, *weight.shape[:2])


def pack_pointwise_pairs(weight: Tensor) -> Tensor:
    """A bfloat16 weight (O, C, 1, 1) as int32 (O, (C + 1) / 2, 1, 1), for inference.

    Each value holds the weights of two input channels, zero behind an odd last one, in memory
    order (C / 2, O): what a channels_last bfloat16 input reads without packing at each call.

    Raises:
        TypeError: weight is not a tensor.
        RuntimeError: it is not (O, C, 1, 1), or of another dtype.
    """
    check_weight("pack_pointwise_pairs", weight, WEIGHT, (1, 1))
    if weight.dtype != torch.bfloat16:
        raise RuntimeError(f"pack_pointwise_pairs: expected weight of bfloat16, got {weight.dtype}")
    rows = F.pad(weight.flatten(1), (0, weight.shape[1] % 2)).contiguous()
    return pack_pointwise_weight(rows.view(torch.int32)[:, :, None, None])


def fake(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: Sequence[int],
    activation: str | None = None,
) -> Tensor:
    weight = packed_weights.unpack_pointwise(input, weight)
    check_like_input("pointwise_conv2d", input, weight=weight, residual=residual)
    check_bias("pointwise_conv2d", input, bias)
    reference.check_activation(activation)
    shape = reference.check_pointwise_conv2d(input, weight, bias, residual, stride)
    return empty_as(input, shape)


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, bias, residual, ctx.stride, ctx.activation = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    if ctx.activation in ("relu", "relu6"):
        ctx.save_for_backward(input, weight, output)
    elif ctx.activation is not None:
        ctx.save_for_backward(input, weight, bias, residual)
    else:
        ctx.save_for_backward(input, weight)


def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    input, weight, *rest = ctx.saved_tensors
    weight = packed_weights.unpack_pointwise(input, weight)
    grad = grad_output
    if ctx.activation is not None:
        z = rest[0] if len(rest) == 1 else _op.recompute(input, weight, *rest, ctx.stride, None)
        grad = activation_backward(grad_output, z, ctx.activation)
    mask = ctx.needs_input_grad[:3]
    gradients: tuple[Tensor | None, ...] = (None, None, None)
    if any(mask):
        computed = _backward_op(grad, input, weight, ctx.stride, mask)
        gradients = tuple(g if needed else None for g, needed in zip(computed, mask, strict=True))
        if gradients[2] is not None:
            gradients = (*gradients[:2], gradients[2].to(ctx.bias_dtype))
    return *gradients, grad if ctx.needs_input_grad[3] else None, None, None


def backward_fake(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    output_mask: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        empty_as(input, input.shape) if output_mask[0] else input.new_empty(0),
        torch.empty_like(weight) if output_mask[1] else input.new_empty(0),
        weight.new_empty(weight.shape[0]) if output_mask[2] else input.new_empty(0),
    )


_backward_op = BackwardOp(
    "pointwise_conv2d_backward",
    tensors=3,
    reference=reference.pointwise_conv2d_backward,
    fake=backward_fake,
)

_op = Op(
    "pointwise_conv2d",
    tensors=4,
    reference=reference.pointwise_conv2d,
    fake=fake,
    setup_context=setup_context,
    backward=backward,
    batched=(0, 3),
    autocast=True,
    unbatched=True,
)


@register_flop_formula(torch.ops.fastconv.pointwise_conv2d)
def flops(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    *_args: object,
    out_shape: Sequence[int],
    **_kwargs: object,
) -> int:
    """A multiplication and an addition for each output and input channel, as torch counts."""
    return 2 * torch.Size(out_shape).numel() * input_shape[1]


@register_flop_formula(torch.ops.fastconv.pointwise_conv2d_backward)
def backward_flops(
    grad_shape: Sequence[int],
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    stride: Sequence[int],
    output_mask: Sequence[bool],
    **_kwargs: object,
) -> int:
    """The product once for each of the two gradients wanted, as torch counts."""
    return 2 * torch.Size(grad_shape).numel() * input_shape[1] * sum(output_mask[:2])
