"""stem_conv2d: the first convolution of a network, from image to channels_last; for inference."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import conv_flop_count, register_flop_formula

from fastconv import reference
from fastconv.ops._check import check_bias, check_like_input, check_weight, check_windows
from fastconv.ops._layout import channels_fastest
from fastconv.ops._op import DerivedOp
from fastconv.ops._window import IntPair, edges, output_sizes, pair

# Of an image: grey, red-green-blue, with depth or alpha. The op takes any number.
MOST_STEM_CHANNELS = 4


def stem_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntPair = 1,
    padding: str | IntPair = 0,
    activation: str | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """activation(torch.nn.functional.conv2d(input, weight, bias, stride, padding)), channels_last.

    For the layer that reads the image (the stem of Tan & Le 2019, arXiv 1905.11946, table 1): few
    input channels, any kernel and stride. The image is read in its own layout, so a contiguous one
    needs no copy before a channels_last network.

    Args:
        input: (N, C, H, W) or (C, H, W); float32, float64, bfloat16 or float16.
        weight: (O, C, kh, kw). In the memory order of :func:`pack_stem_weight` it needs no packing
            at each call.
        bias: (O) or None; beside a bfloat16 input it may be float32.
        stride: an integer or (rows, columns).
        padding: an integer, (rows, columns), 'same', 'valid', or (top, left, bottom, right).
        activation: None, 'relu', 'relu6', 'silu' or 'hardswish'.
        out: a tensor to write the result to, of its shape, dtype and memory format, apart from the
            inputs in memory; not where a gradient is wanted.

    Returns:
        (N, O, H', W'), channels_last whatever the input is, or without N as input.

    Raises:
        TypeError: an argument is of the wrong Python type.
        RuntimeError: shapes, dtypes or devices do not fit, the kernel is larger than the padded
            input, stride is below 1, padding is negative or 'same' with a stride, or the
            activation is unknown.
    """
    stride = pair("stem_conv2d", "stride", stride)
    padding = edges("stem_conv2d", padding, weight, stride, (1, 1))
    return _op.run(input, weight, bias, stride, padding, activation, out=out)


def pack_stem_weight(weight: Tensor) -> Tensor:
    """weight, of shape (O, C, kh, kw), stored as (kh, kw, C, O): the order the kernel reads.

    Raises:
        TypeError: weight is not a tensor.
        RuntimeError: it has another number of dimensions, or no output channels.
    """
    check_weight("pack_stem_weight", weight, "(out_channels, in_channels, kh, kw)")
    return channels_fastest(weight)


def fake(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    activation: str | None = None,
) -> Tensor:
    check_like_input("stem_conv2d", input, weight=weight)
    check_bias("stem_conv2d", input, bias)
    reference.check_activation(activation)
    check_windows("stem_conv2d", input, weight, bias)
    size, kernel = input.shape[2:], weight.shape[2:]
    rows, columns = output_sizes("stem_conv2d", size, kernel, stride, padding, (1, 1))
    shape = (input.shape[0], rows, columns, weight.shape[0])
    return input.new_empty(shape).permute(0, 3, 1, 2)


_op = DerivedOp(
    "stem_conv2d",
    tensors=3,
    reference=reference.stem_conv2d,
    fake=fake,
    batched=(0,),
    autocast=True,
    unbatched=True,
)


@register_flop_formula(torch.ops.fastconv.stem_conv2d)
def flops(
    input_shape: list[int],
    weight_shape: list[int],
    *_args: object,
    out_shape: list[int],
    **_kwargs: object,
) -> int:
    """Those of the convolution, as torch counts it."""
    return conv_flop_count(input_shape, weight_shape, out_shape)
