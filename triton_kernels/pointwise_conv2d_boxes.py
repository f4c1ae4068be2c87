"""pointwise_conv2d of many channels on Hopper and later: programs that stay, fed by copied boxes.

A descriptor tells the hardware the sizes of a matrix; a copy of a box of it then takes one thread
and no registers, runs ahead while the tensor cores multiply, and reads zeros beyond the edges. Each
processor has one program, which takes tile after tile; those of the same pixels follow each other.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from fastconv.triton_kernels._kernel import cdiv, processors, wrap_triton
from fastconv.triton_kernels._language import activate, load, multiply_add
from fastconv.triton_kernels._product import box, has_boxes, rows_of


@triton.jit
def descriptor_kernel(
    input,
    weight,
    bias,
    residual,
    output,
    pixels,
    channels,
    outputs,
    CHANNEL_UNIT: tl.constexpr,
    WEIGHT_ROWS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """input, weight and output are descriptors: what they read beyond an edge is zero."""
    channels *= CHANNEL_UNIT
    outputs *= CHANNEL_UNIT
    across = tl.cdiv(outputs, BLOCK_O)
    tiles = tl.cdiv(pixels, BLOCK_P) * across
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0)):
        row = tile // across * BLOCK_P
        column = tile % across * BLOCK_O
        sums = tl.zeros((BLOCK_P, BLOCK_O), tl.float32)
        for first in range(0, channels, BLOCK_C):
            x = input.load([row, first])
            w = weight.load([column, first]).T if WEIGHT_ROWS else weight.load([first, column])
            sums = multiply_add(x, w, sums, PRECISION, WIDEN)
        out = column + tl.arange(0, BLOCK_O)
        if bias is not None:
            sums += load(bias + out, out < outputs)[None, :]
        if residual is not None:
            sums += residual.load([row, column]).to(tl.float32)
        output.store([row, column], activate(sums, ACTIVATION).to(output.dtype))


def multiply_boxes(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    output: Tensor,
    arithmetic: dict[str, Any],
) -> bool:
    """The product of dense channels_last tensors; whether the hardware can copy their boxes."""
    input, output = rows_of(input), rows_of(output)
    if not has_boxes(input, output, weight):
        return False
    (pixels, channels), outputs = input.shape, output.shape[1]
    of_pixels, of_outputs, of_channels = (arithmetic[f"BLOCK_{axis}"] for axis in "POC")
    side, step = (of_pixels, of_outputs), (of_outputs, of_channels)
    programs = min(cdiv(pixels, side[0]) * cdiv(outputs, side[1]), processors(input.device))
    wrap_triton(descriptor_kernel, input.device)[programs,](
        box(input, of_pixels, of_channels),
        box(weight, *(step if arithmetic["WEIGHT_ROWS"] else step[::-1])),
        bias,
        None if residual is None else box(rows_of(residual), *side),
        box(output, *side),
        pixels,
        channels // arithmetic["CHANNEL_UNIT"],
        outputs // arithmetic["CHANNEL_UNIT"],
        **arithmetic,
    )
    return True
