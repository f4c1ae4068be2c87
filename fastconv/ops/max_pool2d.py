"""max_pool2d: the largest value of each window of pixels, without the indices of torch."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fastconv import reference
from fastconv.ops._check import check_bools
from fastconv.ops._layout import empty_as
from fastconv.ops._op import DerivedOp
from fastconv.ops._window import IntPair, pair


def max_pool2d(
    input: Tensor,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    ceil_mode: bool = False,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """torch.nn.functional.max_pool2d(input, kernel_size, stride, padding, 1, ceil_mode).

    Args:
        input: (N, C, H, W) or (C, H, W); float32, float64, bfloat16 or float16. Made for
            inference.
        kernel_size, padding: an integer or (rows, columns); padding at most half the kernel.
        stride: likewise; None is kernel_size.
        ceil_mode: whether a last window may stand out at the bottom and right.
        out: a tensor to write the result to, of its shape, dtype and memory format, apart from the
            inputs in memory; not where a gradient is wanted.

    Returns:
        (N, C, H', W') in the memory format of input, without N as input. A NaN in a window is its
        maximum.

    Raises:
        TypeError: an argument is of the wrong Python type.
        RuntimeError: input has another number of dimensions or no window of pixels, kernel_size or
            stride is below 1, or padding out of range.
    """
    kernel_size = pair("max_pool2d", "kernel_size", kernel_size)
    stride = kernel_size if stride is None else pair("max_pool2d", "stride", stride)
    padding = pair("max_pool2d", "padding", padding)
    check_bools("max_pool2d", ceil_mode=ceil_mode)
    return _op.run(input, kernel_size, stride, padding, ceil_mode, out=out)


def fake(
    input: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool = False,
) -> Tensor:
    if input.dim() != 4 or input.shape[1] == 0 or min(*kernel_size, *stride) < 1:
        raise RuntimeError(
            "max_pool2d: expected input with 4 dimensions and channels, kernel_size and stride "
            f"from 1, got {tuple(input.shape)}, {tuple(kernel_size)} and {tuple(stride)}"
        )
    pooled = reference.max_pool2d(input, kernel_size, stride, padding, ceil_mode)
    return empty_as(input, pooled.shape)


_op = DerivedOp(
    "max_pool2d",
    tensors=1,
    reference=reference.max_pool2d,
    fake=fake,
    batched=(0,),
    unbatched=True,
)


@register_flop_formula(torch.ops.fastconv.max_pool2d)
def flops(input_shape: tuple[int, ...], *_args: object, **_kwargs: object) -> int:
    """None, as torch counts its own pooling."""
    return 0
