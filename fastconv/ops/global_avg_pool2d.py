"""global_avg_pool2d: the mean over all pixels of each channel, in one pass."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fastconv import reference
from fastconv.ops._check import check_like_input
from fastconv.ops._layout import empty_as
from fastconv.ops._op import BackwardOp, Op


def global_avg_pool2d(input: Tensor, *, out: Tensor | None = None) -> Tensor:
    """torch.nn.functional.adaptive_avg_pool2d(input, 1).

    Lin et al. 2013, "Network in network", section 3.2 (arXiv 1312.4400); the squeeze of Hu et al.
    2017 (arXiv 1709.01507, equation 2).

    Args:
        input: (N, C, H, W) or (C, H, W); float32, float64, bfloat16 or float16, with any strides.
        out: a tensor to write the result to, of its shape, dtype and memory format, apart from the
            inputs in memory; not where a gradient is wanted.

    Returns:
        (N, C, 1, 1), contiguous, or without N as input. 16-bit types are summed in float32.

    Raises:
        TypeError: input is not a tensor.
        RuntimeError: input has another number of dimensions, no channels or no pixels.
    """
    return _op.run(input, out=out)


def fake(input: Tensor) -> Tensor:
    if input.dim() != 4:
        raise RuntimeError(
            f"global_avg_pool2d: expected input with 4 dimensions, got shape {tuple(input.shape)}"
        )
    if 0 in input.shape[1:]:
        raise RuntimeError(
            "global_avg_pool2d: expected input to have channels and pixels, got "
            f"{tuple(input.shape)}"
        )
    return input.new_empty((*input.shape[:2], 1, 1))


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)  # for its shape and its layout


def backward(ctx: Any, grad_output: Tensor) -> Tensor:
    return _backward_op(grad_output, *ctx.saved_tensors)


def fake_backward(grad_output: Tensor, input: Tensor) -> Tensor:
    fake(input)
    check_like_input("global_avg_pool2d", input, grad_output=grad_output)
    return empty_as(input, input.shape)


_backward_op = BackwardOp(
    "global_avg_pool2d_backward",
    tensors=2,
    reference=reference.global_avg_pool2d_backward,
    fake=fake_backward,
    batched=(0, 1),
)
_op = Op(
    "global_avg_pool2d",
    tensors=1,
    reference=reference.global_avg_pool2d,
    fake=fake,
    setup_context=setup_context,
    backward=backward,
    batched=(0,),
    unbatched=True,
)


@register_flop_formula(
    [torch.ops.fastconv.global_avg_pool2d, torch.ops.fastconv.global_avg_pool2d_backward]
)
def flops(input_shape: tuple[int, ...], *_args: object, **_kwargs: object) -> int:
    """None, as torch counts its own pooling."""
    return 0
