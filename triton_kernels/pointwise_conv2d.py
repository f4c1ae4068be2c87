"""pointwise_conv2d: a product of matrices, pixels x channels, with bias, residual and activation.

Both layouts are the same product in another order of memory: a channels_last tensor is one matrix
whose rows are all pixels, a contiguous one a matrix an image whose columns are. A stride only picks
pixels. Three kernels, and what each is for:

panel   few channels: all are held at once and meet all weights, so that each pixel is read once
        (the expansions of mobile networks: Sandler et al. 2018, arXiv 1801.04381, table 1)
tile    a tile of pixels x outputs a program, the channels in steps; the programs of the same pixels
        follow each other, so that all but the first find them in the L2 cache
boxes   many channels, channels_last, on Hopper and later: pointwise_conv2d_boxes.py
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastconv.ops.pointwise_conv2d import fake
from fastconv.triton_kernels._kernel import cdiv, dense, is_channels_last, kernel, wrap_triton
from fastconv.triton_kernels._language import activate, load, multiply_add, store
from fastconv.triton_kernels._product import (
    common_unit,
    matrix,
    pixels_of,
    power,
    precision,
    tile_of,
    widen,
)
from fastconv.triton_kernels.pointwise_conv2d_boxes import multiply_boxes

# Settings, beside those of _product.py. No GPU was at hand to measure them.
PANEL = 128  # channels held at once: 128 pixels of them in 16 bits are 64 registers of 128 threads
MANY = 128  # channels from which copies of boxes have steps enough, two of 64, to run ahead in


@triton.jit
def tile_at(tile, pixels, BLOCK_P: tl.constexpr):
    """The image that a tile is of, in 64 bits, and its pixels there."""
    tiles = tl.cdiv(pixels, BLOCK_P)
    return (tile // tiles).to(tl.int64), tile % tiles * BLOCK_P + tl.arange(0, BLOCK_P)


@triton.jit
def pixels_at(
    pixel,
    channel,
    channels,
    input_pixels,
    input_width,
    out_width,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """Where in an image the channels of output pixels are."""
    if STRIDE_H * STRIDE_W > 1:
        pixel = pixel // out_width * STRIDE_H * input_width + pixel % out_width * STRIDE_W
    if CHANNELS_LAST:
        at = pixel.to(tl.int64)[:, None] * channels + channel[None, :]
    else:
        at = pixel[:, None] + channel.to(tl.int64)[None, :] * input_pixels
    return at


@triton.jit
def weights_at(channel, out, channels, outputs, WEIGHT_ROWS: tl.constexpr):
    """Where the weights of channels x outputs are: rows of outputs or, packed, of channels."""
    if WEIGHT_ROWS:
        at = channel[:, None] + out.to(tl.int64)[None, :] * channels
    else:
        at = channel.to(tl.int64)[:, None] * outputs + out[None, :]
    return at


@triton.jit
def finish(
    sums,
    bias,
    residual,
    output,
    image,
    pixel,
    out,
    pixels,
    outputs,
    ACTIVATION: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """Bias, residual and activation of a tile, and its store."""
    output += image * pixels * outputs
    if bias is not None:
        sums += load(bias + out, out < outputs)[None, :]
    if CHANNELS_LAST:
        index = pixel.to(tl.int64)[:, None] * outputs + out[None, :]
    else:
        index = pixel[:, None] + out.to(tl.int64)[None, :] * pixels
    mask = (pixel < pixels)[:, None] & (out < outputs)[None, :]
    if residual is not None:
        sums += load(residual + image * pixels * outputs + index, mask)
    store(output + index, activate(sums, ACTIVATION), mask)


@triton.jit
def panel_kernel(
    input,
    weight,
    bias,
    residual,
    output,
    pixels,
    out_width,
    input_pixels,
    input_width,
    channels,
    outputs,
    PIXEL_UNIT: tl.constexpr,
    CHANNEL_UNIT: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    WEIGHT_ROWS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    # Given in units, so that the compiler knows what they are multiples of: 16-byte accesses.
    pixels *= PIXEL_UNIT
    input_pixels *= PIXEL_UNIT
    channels *= CHANNEL_UNIT
    outputs *= CHANNEL_UNIT
    image, pixel = tile_at(tl.program_id(0), pixels, BLOCK_P)
    channel = tl.arange(0, BLOCK_C)
    input += image * input_pixels * channels
    size = (channels, input_pixels, input_width, out_width)
    input += pixels_at(pixel, channel, *size, STRIDE_H, STRIDE_W, CHANNELS_LAST)
    has = channel < channels
    x = tl.load(input, mask=(pixel < pixels)[:, None] & has[None, :], other=0.0)
    for first in range(0, outputs, BLOCK_O):
        out = first + tl.arange(0, BLOCK_O)
        weights = weight + weights_at(channel, out, channels, outputs, WEIGHT_ROWS)
        w = tl.load(weights, mask=has[:, None] & (out < outputs)[None, :], other=0.0)
        sums = tl.zeros((BLOCK_P, BLOCK_O), tl.float32)
        sums = multiply_add(x, w, sums, PRECISION, WIDEN)
        at = (image, pixel, out, pixels, outputs)
        finish(sums, bias, residual, output, *at, ACTIVATION, CHANNELS_LAST)


@triton.jit
def tile_kernel(
    input,
    weight,
    bias,
    residual,
    output,
    pixels,
    out_width,
    input_pixels,
    input_width,
    channels,
    outputs,
    PIXEL_UNIT: tl.constexpr,
    CHANNEL_UNIT: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    WEIGHT_ROWS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    pixels *= PIXEL_UNIT
    input_pixels *= PIXEL_UNIT
    channels *= CHANNEL_UNIT
    outputs *= CHANNEL_UNIT
    across = tl.cdiv(outputs, BLOCK_O)
    image, pixel = tile_at(tl.program_id(0) // across, pixels, BLOCK_P)
    out = tl.program_id(0) % across * BLOCK_O + tl.arange(0, BLOCK_O)
    channel = tl.arange(0, BLOCK_C)
    input += image * input_pixels * channels
    size = (channels, input_pixels, input_width, out_width)
    input += pixels_at(pixel, channel, *size, STRIDE_H, STRIDE_W, CHANNELS_LAST)
    weight += weights_at(channel, out, channels, outputs, WEIGHT_ROWS)
    sums = tl.zeros((BLOCK_P, BLOCK_O), tl.float32)
    for first in range(0, channels, BLOCK_C):
        has = channel < channels - first
        x = tl.load(input, mask=(pixel < pixels)[:, None] & has[None, :], other=0.0)
        w = tl.load(weight, mask=has[:, None] & (out < outputs)[None, :], other=0.0)
        sums = multiply_add(x, w, sums, PRECISION, WIDEN)
        input += BLOCK_C if CHANNELS_LAST else BLOCK_C * tl.cast(input_pixels, tl.int64)
        weight += BLOCK_C if WEIGHT_ROWS else BLOCK_C * tl.cast(outputs, tl.int64)
    at = (image, pixel, out, pixels, outputs)
    finish(sums, bias, residual, output, *at, ACTIVATION, CHANNELS_LAST)


@kernel
def pointwise_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: Sequence[int],
    activation: str | None = None,
) -> Tensor:
    output = fake(input, weight, bias, residual, stride, activation)
    if output.numel() == 0:
        return output
    channels_last = is_channels_last(input)
    input = dense(input, channels_last)
    residual = residual if residual is None else dense(residual, channels_last)
    product(input, weight, bias, residual, output, stride, activation, channels_last)
    return output


def product(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    output: Tensor,
    stride: Sequence[int],
    activation: str | None,
    channels_last: bool,
) -> None:
    """The op with its result in output; input, residual and output dense in that layout."""
    outputs, channels = weight.shape[:2]
    images, pixels, input_pixels = input.shape[0], *map(pixels_of, (output, input))
    plain = tuple(stride) == (1, 1)
    one_matrix = channels_last and plain and images * pixels < 2**31
    if one_matrix:
        images, pixels, input_pixels = 1, images * pixels, images * pixels
    weight, by_rows = matrix(weight)
    kind = {
        "channels_last": channels_last,
        "weight_rows": by_rows,
        "residual": residual is not None,
    }
    tile = tile_of((images * pixels, channels, outputs), input, stride=stride, **kind)
    unit = common_unit(channels, outputs)
    arithmetic: dict[str, Any] = {
        "CHANNEL_UNIT": unit,
        "WEIGHT_ROWS": by_rows,
        "ACTIVATION": activation,
        "PRECISION": precision(input.dtype),
        "WIDEN": widen(input.dtype),
        "BLOCK_P": tile.pixels,
        "BLOCK_O": tile.outputs,
        "BLOCK_C": tile.channels,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }
    tiles, across = images * cdiv(pixels, tile.pixels), cdiv(outputs, tile.outputs)
    # One program a processor is too few for the CUDA cores, which multiply float32 numbers.
    on_tensor_cores = input.dtype != torch.float32 or arithmetic["PRECISION"] == "tf32"
    boxes = one_matrix and channels >= MANY and on_tensor_cores
    of_boxes = arithmetic | {"num_stages": tile.box_stages}
    if boxes and multiply_boxes(input, weight, bias, residual, output, of_boxes):
        return
    function = tile_kernel
    if channels <= PANEL and across > 1:
        function, across = panel_kernel, 1
        panel = {"BLOCK_C": power(channels, PANEL), "BLOCK_O": tile.panel_outputs, "num_warps": 4}
        arithmetic |= panel
    pixel_unit = common_unit(pixels, input_pixels)
    wrap_triton(function, input.device)[tiles * across,](
        input,
        weight,
        bias,
        residual,
        output,
        pixels // pixel_unit,
        output.shape[3],
        input_pixels // pixel_unit,
        input.shape[3],
        channels // unit,
        outputs // unit,
        pixel_unit,
        STRIDE_H=stride[0],
        STRIDE_W=stride[1],
        CHANNELS_LAST=channels_last,
        **arithmetic,
    )
