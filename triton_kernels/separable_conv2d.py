"""separable_conv2d: depthwise and pointwise in one kernel, what is between them in registers.

A program has a tile of output pixels. Slice by slice of the channels it does the depthwise
convolution of the tile, by multiplications and additions from the L1 cache, and multiplies the
slice into the sums of all outputs. The depthwise result of a pixel is so made once and never stored
(Howard et al. 2017, arXiv 1704.04861, has it between the two).

With a squeeze-and-excitation in between, whose mean needs all pixels, with more outputs than one
tile has, or with more than one output a channel, the parts run one after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from fastconv import reference
from fastconv.ops.separable_conv2d import fake
from fastconv.triton_kernels._kernel import (
    KERNELS,
    cdiv,
    dense,
    is_channels_last,
    kernel,
    wrap_triton,
)
from fastconv.triton_kernels._language import activate, load, multiply_add
from fastconv.triton_kernels._product import (
    LEAST,
    common_unit,
    matrix,
    pixels_of,
    power,
    precision,
    widen,
)
from fastconv.triton_kernels._settings import Space
from fastconv.triton_kernels._tuned import settings_for
from fastconv.triton_kernels.pointwise_conv2d import finish, tile_at, weights_at


@dataclass(frozen=True)
class Settings:
    """No GPU was at hand to measure them."""

    slice: int = 32  # channels at a time: 64 bytes of a pixel
    pixels: int = 64  # of a tile, where that makes no more than these
    sums: int = 64 * 64  # 32 registers of 4 warps; with twice as many, sm_90 spills
    warps: int = 4
    stages: int = 3  # Triton's own choice


# By whether numbers are float32, whose operands lie in registers too. Smaller tiles leave less of a
# small map over; in 8 warps twice the sums fit.
SPACES = {
    wide: Space(
        "separable_conv2d" + (" float32" if wide else ""),
        Settings(slice=16, sums=64 * 32) if wide else Settings(),
        {
            "pixels": (32,) if wide else (32, 128),
            "sums": (64 * 128,),
            "warps": (8,),
            "slice": (64,),
            "stages": (1, 2),
        },
    )
    for wide in (False, True)
}
# With slices of fewer channels, or with fewer outputs, Triton reads the pixels number by number,
# right where the tensor cores want them.
LEAST_SIDE = 32
OUTPUTS = 256  # more would leave tiles of fewer than 16 pixels
TAPS = 49  # a window of 7x7; the kernel of larger ones is depthwise_conv2d's


@triton.jit
def tap_at(
    pixel,
    channel,
    i,
    j,
    out_width,
    pixels,
    height,
    width,
    channels,
    top,
    left,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """Where tap (i, j) of output pixels is in an image, and which are neither padding nor over."""
    row = pixel // out_width * STRIDE_H + i * DILATION_H - top
    column = pixel % out_width * STRIDE_W + j * DILATION_W - left
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width) & (pixel < pixels)
    at = row.to(tl.int64) * width + column
    if CHANNELS_LAST:
        at = at[:, None] * channels + channel[None, :]
    else:
        at = at[:, None] + channel.to(tl.int64)[None, :] * height * width
    return at, inside


@triton.jit
def separable_kernel(
    input,
    depthwise_weight,
    depthwise_bias,
    weight,
    bias,
    residual,
    output,
    out_height,
    out_width,
    height,
    width,
    channels,
    outputs,
    top,
    left,
    CHANNEL_UNIT: tl.constexpr,
    TAPS_H: tl.constexpr,
    TAPS_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    WEIGHT_ROWS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    POINTWISE_ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    channels *= CHANNEL_UNIT
    outputs *= CHANNEL_UNIT
    pixels = out_height * out_width
    image, pixel = tile_at(tl.program_id(0), pixels, BLOCK_P)
    out = tl.arange(0, BLOCK_O)
    input += image * channels * height * width
    sums = tl.zeros((BLOCK_P, BLOCK_O), tl.float32)
    for first in range(0, channels, BLOCK_C):
        channel = first + tl.arange(0, BLOCK_C)
        has = channel < channels
        hidden = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
        if depthwise_bias is not None:
            hidden += load(depthwise_bias + channel, has)[None, :]
        for i in range(TAPS_H):
            for j in tl.static_range(TAPS_W):
                at, inside = tap_at(
                    *(pixel, channel, i, j, out_width, pixels, height, width, channels, top, left),
                    STRIDE_H=STRIDE_H,
                    STRIDE_W=STRIDE_W,
                    DILATION_H=DILATION_H,
                    DILATION_W=DILATION_W,
                    CHANNELS_LAST=CHANNELS_LAST,
                )
                mask = inside[:, None] & has[None, :]
                x = load(input + at, mask)
                tap = depthwise_weight + (i * TAPS_W + j) * channels + channel
                # Loaded for each pixel, so that no thread has to ask another for its weights.
                hidden = tl.fma(x, load(tl.broadcast_to(tap[None, :], x.shape), mask), hidden)
        hidden = activate(hidden, ACTIVATION).to(weight.dtype.element_ty)
        at = weights_at(channel, out, channels, outputs, WEIGHT_ROWS)
        w = tl.load(weight + at, mask=has[:, None] & (out < outputs)[None, :], other=0.0)
        sums = multiply_add(hidden, w, sums, PRECISION, WIDEN)
    at = (image, pixel, out, pixels, outputs)
    finish(sums, bias, residual, output, *at, POINTWISE_ACTIVATION, CHANNELS_LAST)


@kernel
def separable_conv2d(
    input: Tensor,
    depthwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    pointwise_weight: Tensor,
    pointwise_bias: Tensor | None,
    residual: Tensor | None,
    squeeze_reduce_weight: Tensor | None,
    squeeze_reduce_bias: Tensor | None,
    squeeze_expand_weight: Tensor | None,
    squeeze_expand_bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    activation: str | None = None,
    pointwise_activation: str | None = None,
    squeeze_activation: str | None = None,
    squeeze_gate: str = "sigmoid",
) -> Tensor:
    squeeze = (squeeze_reduce_weight, squeeze_reduce_bias)
    excite = (squeeze_expand_weight, squeeze_expand_bias)
    weights = (depthwise_weight, depthwise_bias, pointwise_weight, pointwise_bias)
    window = (stride, padding, dilation)
    names = (activation, pointwise_activation)
    gate = (squeeze_activation, squeeze_gate)
    output = fake(input, *weights, residual, *squeeze, *excite, *window, *names, *gate)
    if output.numel() == 0:
        return output
    outputs, channels = pointwise_weight.shape[:2]
    one_a_channel = channels == input.shape[1]
    taps = depthwise_weight.shape[2] * depthwise_weight.shape[3]
    if squeeze[0] is None and one_a_channel and outputs <= OUTPUTS and taps <= TAPS:
        _fused(input, weights, residual, window, names, output)
        return output
    hidden = KERNELS["depthwise_conv2d"](input, *weights[:2], *window, activation)
    if squeeze[0] is not None:
        hidden = _excited(hidden, squeeze, excite, *gate)
    return KERNELS["pointwise_conv2d"](hidden, *weights[2:], residual, (1, 1), names[1])


def _excited(
    hidden: Tensor,
    squeeze: tuple[Tensor | None, Tensor | None],
    excite: tuple[Tensor | None, Tensor | None],
    activation: str | None,
    gate: str,
) -> Tensor:
    """hidden weighed by what all its pixels hold; the mean and the gate are torch's own."""
    product = KERNELS["pointwise_conv2d"]
    mean = hidden.mean((2, 3), keepdim=True)
    excited = product(
        product(mean, *squeeze, None, (1, 1), activation), *excite, None, (1, 1), None
    )
    return hidden * reference.GATES[gate](excited)


def _fused(
    input: Tensor,
    weights: tuple[Tensor, Tensor | None, Tensor, Tensor | None],
    residual: Tensor | None,
    window: tuple[Sequence[int], Sequence[int], Sequence[int]],
    names: tuple[str | None, str | None],
    output: Tensor,
) -> None:
    depthwise_weight, depthwise_bias, pointwise_weight, pointwise_bias = weights
    stride, padding, dilation = window
    outputs, channels = pointwise_weight.shape[:2]
    channels_last = is_channels_last(input)
    weight, by_rows = matrix(pointwise_weight)
    settings = settings_for(
        SPACES[input.element_size() == 4],
        input,
        (*output.shape, channels),
        channels_last=channels_last,
        kernel=depthwise_weight.shape[2:],
        stride=stride,
        dilation=dilation,
        residual=residual is not None,
        precision=precision(input.dtype),
    )
    across = max(LEAST_SIDE, power(outputs, OUTPUTS))
    down = max(LEAST, min(settings.pixels, settings.sums // across))
    unit = common_unit(channels, outputs)
    wrap_triton(separable_kernel, input.device)[output.shape[0] * cdiv(pixels_of(output), down),](
        dense(input, channels_last),
        depthwise_weight.flatten(1).T.contiguous(),  # as it is where packed
        depthwise_bias,
        weight,
        pointwise_bias,
        None if residual is None else dense(residual, channels_last),
        output,
        *output.shape[2:],
        *input.shape[2:],
        channels // unit,
        outputs // unit,
        *padding[:2],
        CHANNEL_UNIT=unit,
        TAPS_H=depthwise_weight.shape[2],
        TAPS_W=depthwise_weight.shape[3],
        STRIDE_H=stride[0],
        STRIDE_W=stride[1],
        DILATION_H=dilation[0],
        DILATION_W=dilation[1],
        CHANNELS_LAST=channels_last,
        WEIGHT_ROWS=by_rows,
        ACTIVATION=names[0],
        POINTWISE_ACTIVATION=names[1],
        PRECISION=precision(input.dtype),
        WIDEN=widen(input.dtype),
        BLOCK_P=down,
        BLOCK_O=across,
        BLOCK_C=settings.slice,
        num_warps=settings.warps,
        num_stages=settings.stages,
    )
