"""inverted_residual: expand, depthwise and project, the expanded channels in registers.

Slice by slice of the expanded channels, a program expands its pixels at one tap of the window after
the other, adds up the taps, and multiplies the slice into the sums of all outputs: the wide tensor
of Sandler et al. 2018 (arXiv 1801.04381, figure 3), six times the others, is never stored.

A pixel is expanded once for each output that reads it: 2.25 times for a window of 3x3 with stride
2, where this saves most, for its input has four times the output's pixels; but 9 times with stride
1. There, and with a squeeze-and-excitation, the expansion is a kernel of its own, followed by that
of separable_conv2d.
"""

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from fastconv.ops.inverted_residual import fake
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
from fastconv.triton_kernels.separable_conv2d import LEAST_SIDE, Settings, tap_at

# Settings. No GPU was at hand to measure them.
# Those of separable_conv2d, though 16 registers each for a tap and their sum are beside those of
# the sums. A wider slice of the expanded channels reads the input fewer times.
SPACES = {
    wide: Space(
        "inverted_residual" + (" float32" if wide else ""),
        Settings(slice=16, sums=64 * 32) if wide else Settings(),
        {
            "slice": (32 if wide else 64,),
            "pixels": (32,) if wide else (32, 128),
            "sums": (64 * 128,),
            "warps": (8,),
            "stages": (1, 2),
        },
    )
    for wide in (False, True)
}
REPEATS = 3  # times that a pixel may be expanded; at 3 the arithmetic still hides behind the memory
CHANNELS = 32  # of the input, read again at each tap of each slice; 64 take all 255 registers
OUTPUTS = 128


@triton.jit
def inverted_residual_kernel(
    input,
    expand_weight,
    expand_bias,
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
    hidden,
    outputs,
    top,
    left,
    CHANNEL_UNIT: tl.constexpr,
    TAPS_H: tl.constexpr,
    TAPS_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    EXPAND_ROWS: tl.constexpr,
    WEIGHT_ROWS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    channels *= CHANNEL_UNIT
    hidden *= CHANNEL_UNIT
    outputs *= CHANNEL_UNIT
    pixels = out_height * out_width
    image, pixel = tile_at(tl.program_id(0), pixels, BLOCK_P)
    channel = tl.arange(0, BLOCK_C)
    out = tl.arange(0, BLOCK_O)
    input += image * channels * height * width
    sums = tl.zeros((BLOCK_P, BLOCK_O), tl.float32)
    for first in range(0, hidden, BLOCK_H):
        expanded = first + tl.arange(0, BLOCK_H)
        has = expanded < hidden
        weights = expand_weight + weights_at(channel, expanded, channels, hidden, EXPAND_ROWS)
        w = tl.load(weights, mask=(channel < channels)[:, None] & has[None, :], other=0.0)
        start = tl.zeros((BLOCK_P, BLOCK_H), tl.float32)
        if expand_bias is not None:
            start += load(expand_bias + expanded, has)[None, :]
        window = tl.zeros((BLOCK_P, BLOCK_H), tl.float32)
        if depthwise_bias is not None:
            window += load(depthwise_bias + expanded, has)[None, :]
        for i in range(TAPS_H):
            for j in tl.static_range(TAPS_W):
                at, inside = tap_at(
                    *(pixel, channel, i, j, out_width, pixels, height, width, channels, top, left),
                    STRIDE_H=STRIDE_H,
                    STRIDE_W=STRIDE_W,
                    DILATION_H=1,
                    DILATION_W=1,
                    CHANNELS_LAST=CHANNELS_LAST,
                )
                mask = inside[:, None] & (channel < channels)[None, :]
                x = tl.load(input + at, mask=mask, other=0.0)
                z = activate(multiply_add(x, w, start, PRECISION, WIDEN), ACTIVATION)
                tap = depthwise_weight + (i * TAPS_W + j) * hidden + expanded
                # The padding is of the expanded channels: no bias, no infinite weight is in it.
                mask = inside[:, None] & has[None, :]
                z = tl.where(mask, z, 0.0)
                window = tl.fma(z, load(tl.broadcast_to(tap[None, :], z.shape), mask), window)
        slice = activate(window, ACTIVATION).to(weight.dtype.element_ty)
        weights = weight + weights_at(expanded, out, hidden, outputs, WEIGHT_ROWS)
        v = tl.load(weights, mask=has[:, None] & (out < outputs)[None, :], other=0.0)
        sums = multiply_add(slice, v, sums, PRECISION, WIDEN)
    at = (image, pixel, out, pixels, outputs)
    finish(sums, bias, residual, output, *at, None, CHANNELS_LAST)


@kernel
def inverted_residual(
    input: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor | None,
    depthwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    project_weight: Tensor,
    project_bias: Tensor | None,
    squeeze_reduce_weight: Tensor | None,
    squeeze_reduce_bias: Tensor | None,
    squeeze_expand_weight: Tensor | None,
    squeeze_expand_bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    activation: str | None = None,
    residual: bool = False,
    squeeze_activation: str | None = None,
    squeeze_gate: str = "sigmoid",
) -> Tensor:
    expand = (expand_weight, expand_bias)
    block = (depthwise_weight, depthwise_bias, project_weight, project_bias)
    squeeze = (squeeze_reduce_weight, squeeze_reduce_bias)
    excite = (squeeze_expand_weight, squeeze_expand_bias)
    gate = (squeeze_activation, squeeze_gate)
    window = (stride, padding)
    output = fake(input, *expand, *block, *squeeze, *excite, *window, activation, residual, *gate)
    if output.numel() == 0:
        return output
    added = input if residual else None
    taps = depthwise_weight.shape[2] * depthwise_weight.shape[3]
    repeats = taps / (stride[0] * stride[1])
    small = input.shape[1] <= CHANNELS and output.shape[1] <= OUTPUTS and repeats <= REPEATS
    one_a_channel = depthwise_weight.shape[0] == expand_weight.shape[0]
    if squeeze[0] is None and one_a_channel and small:
        _fused(input, expand, block, added, window, activation, output)
        return output
    hidden = KERNELS["pointwise_conv2d"](input, *expand, None, (1, 1), activation)
    names = (activation, None, *gate)
    rest = (added, *squeeze, *excite, *window, (1, 1), *names)
    return KERNELS["separable_conv2d"](hidden, *block, *rest)


def _fused(
    input: Tensor,
    expand: tuple[Tensor, Tensor | None],
    block: tuple[Tensor, Tensor | None, Tensor, Tensor | None],
    residual: Tensor | None,
    window: tuple[Sequence[int], Sequence[int]],
    activation: str | None,
    output: Tensor,
) -> None:
    depthwise_weight, depthwise_bias, project_weight, project_bias = block
    stride, padding = window
    outputs, hidden = project_weight.shape[:2]
    channels = input.shape[1]
    channels_last = is_channels_last(input)
    (expand_weight, expand_rows), (weight, weight_rows) = matrix(expand[0]), matrix(project_weight)
    across = max(LEAST_SIDE, power(outputs, OUTPUTS))
    settings = settings_for(
        SPACES[input.element_size() == 4],
        input,
        (*output.shape, channels, hidden),
        channels_last=channels_last,
        kernel=depthwise_weight.shape[2:],
        stride=stride,
        residual=residual is not None,
        precision=precision(input.dtype),
    )
    down = max(LEAST, min(settings.pixels, settings.sums // across))
    unit = common_unit(channels, hidden, outputs)
    programs = output.shape[0] * cdiv(pixels_of(output), down)
    wrap_triton(inverted_residual_kernel, input.device)[programs,](
        dense(input, channels_last),
        expand_weight,
        expand[1],
        depthwise_weight.flatten(1).T.contiguous(),  # as it is where packed
        depthwise_bias,
        weight,
        project_bias,
        None if residual is None else dense(residual, channels_last),
        output,
        *output.shape[2:],
        *input.shape[2:],
        channels // unit,
        hidden // unit,
        outputs // unit,
        *padding[:2],
        CHANNEL_UNIT=unit,
        TAPS_H=depthwise_weight.shape[2],
        TAPS_W=depthwise_weight.shape[3],
        STRIDE_H=stride[0],
        STRIDE_W=stride[1],
        CHANNELS_LAST=channels_last,
        EXPAND_ROWS=expand_rows,
        WEIGHT_ROWS=weight_rows,
        ACTIVATION=activation,
        PRECISION=precision(input.dtype),
        WIDEN=widen(input.dtype),
        BLOCK_P=down,
        BLOCK_O=across,
        BLOCK_C=CHANNELS,
        BLOCK_H=settings.slice,
        num_warps=settings.warps,
        num_stages=settings.stages,
    )
