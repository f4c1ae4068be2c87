"""pointwise_conv2d_backward: three gradients, two of them in one pass over both tensors.

The gradient of the input is the forward product with the weight transposed; a stride spreads it
over the pixels that were read. Those of weight and bias are sums over all pixels, in two stages, so
that no atomics are needed and the same bits come out every time: each slab of pixels has a sum of
its own, and then the slabs are added in their order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastconv.ops.pointwise_conv2d import backward_fake
from fastconv.triton_kernels._kernel import (
    cdiv,
    check_shape,
    dense,
    empty_in,
    is_channels_last,
    kernel,
    processors,
    wrap_triton,
)
from fastconv.triton_kernels._language import multiply_add, store
from fastconv.triton_kernels._product import (
    common_unit,
    pixels_of,
    power,
    precision,
    widen,
)
from fastconv.triton_kernels._settings import Space
from fastconv.triton_kernels._tuned import settings_for
from fastconv.triton_kernels.pointwise_conv2d import pixels_at, product


@dataclass(frozen=True)
class Settings:
    """Of the weight's gradient. No GPU was at hand to measure them."""

    side: int = 64  # of a tile of the weight: 64 x 64 sums are 32 registers of 4 warps
    pixels: int = 64  # a step: 64 pixels of 64 channels are 8 KiB in 16 bits, four on their way
    stages: int = 4
    waves: int = 4  # programs a processor: with 4 warps each, 16 of its 64 warps
    warps: int = 4


# A larger side reads both tensors fewer times and leaves fewer programs to share the pixels.
SPACE = Space(
    "pointwise_conv2d_backward",
    Settings(),
    {"side": (32, 128), "pixels": (32, 128), "stages": (2, 3), "waves": (2, 8), "warps": (8,)},
)
# Steps where pixels cost registers: numbers too narrow to be copied past them (planes of odd size),
# products without tensor cores. With 64 an sm_80 keeps some on the stack.
FEW_PIXELS = 32
# Of the slabs a program adds: 16 numbers a thread at once, so that their latencies overlap, and few
# numbers, so that a weight of a thousand still occupies 32 processors.
SLABS, NUMBERS, WARPS = 64, 32, 4


@triton.jit
def slab_kernel(
    grad_output,
    input,
    weight_slabs,
    bias_slabs,
    steps,
    steps_of_slab,
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
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The sum over one slab, that is some steps of BLOCK_P pixels, for outputs x channels."""
    pixels *= PIXEL_UNIT
    input_pixels *= PIXEL_UNIT
    channels *= CHANNEL_UNIT
    outputs *= CHANNEL_UNIT
    steps_of_image = tl.cdiv(pixels, BLOCK_P)
    slab = tl.program_id(2)
    out = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    sums = tl.zeros((BLOCK_O, BLOCK_C), tl.float32)
    bias_sums = tl.zeros((BLOCK_O,), tl.float32)
    for step in range(slab * steps_of_slab, tl.minimum(steps, (slab + 1) * steps_of_slab)):
        image = (step // steps_of_image).to(tl.int64)
        pixel = step % steps_of_image * BLOCK_P + tl.arange(0, BLOCK_P)
        has = (pixel < pixels)[:, None]
        size = (channels, input_pixels, input_width, out_width)
        x_at = pixels_at(pixel, channel, *size, STRIDE_H, STRIDE_W, CHANNELS_LAST)
        x_at += image * input_pixels * channels
        x = tl.load(input + x_at, mask=has & (channel < channels)[None, :], other=0.0)
        g_at = pixels_at(pixel, out, outputs, pixels, 0, 0, 1, 1, CHANNELS_LAST)
        g_at += image * pixels * outputs
        g = tl.load(grad_output + g_at, mask=has & (out < outputs)[None, :], other=0.0)
        sums = multiply_add(g.T, x, sums, PRECISION, WIDEN)
        if bias_slabs is not None:
            bias_sums += tl.sum(g.to(tl.float32), axis=0)
    slab = slab.to(tl.int64)
    at = (slab * outputs + out[:, None]) * channels + channel[None, :]
    mask = (out < outputs)[:, None] & (channel < channels)[None, :]
    tl.store(weight_slabs + at, sums, mask=mask)
    if bias_slabs is not None:  # noqa: SIM102  one is known to the compiler, one at run time
        if tl.program_id(0) == 0:  # the first of those with the same outputs
            tl.store(bias_slabs + slab * outputs + out, bias_sums, mask=out < outputs)


@triton.jit
def add_slabs_kernel(slabs, sums, numbers, count, BLOCK_S: tl.constexpr, BLOCK: tl.constexpr):
    """BLOCK_S slabs at a time, added up in a tree that is the same every time."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    slab = tl.arange(0, BLOCK_S)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, count, BLOCK_S):
        index = (first + slab).to(tl.int64)[:, None] * numbers + at[None, :]
        mask = (first + slab < count)[:, None] & (at < numbers)[None, :]
        total += tl.sum(tl.load(slabs + index, mask=mask, other=0.0), axis=0)
    store(sums + at, total, at < numbers)


@kernel
def pointwise_conv2d_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    output_mask: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    images, channels, height, width = input.shape
    size = [-(-size // step) for size, step in zip((height, width), stride, strict=True)]
    shape = (images, weight.shape[0], *size)
    check_shape("pointwise_conv2d_backward", "grad_output", grad_output, shape)
    check_shape("pointwise_conv2d_backward", "weight", weight, (weight.shape[0], channels, 1, 1))
    for_input, for_weight, for_bias = backward_fake(grad_output, input, weight, stride, output_mask)
    channels_last = is_channels_last(input)
    grad = dense(grad_output, channels_last)
    if output_mask[0]:
        _of_input(grad, weight, stride, channels_last, for_input)
    if output_mask[1]:
        bias = for_bias if output_mask[2] else None
        _of_weight(grad, dense(input, channels_last), stride, channels_last, for_weight, bias)
    elif output_mask[2]:
        for_bias = grad.sum((0, 2, 3))
    return for_input, for_weight, for_bias


def _of_input(
    grad: Tensor, weight: Tensor, stride: Sequence[int], channels_last: bool, result: Tensor
) -> None:
    plain = tuple(stride) == (1, 1)
    shape = (grad.shape[0], weight.shape[1], *grad.shape[2:])
    picked = result if plain else empty_in(grad, shape, channels_last)
    if picked.numel():
        product(grad, weight.transpose(0, 1), None, None, picked, (1, 1), None, channels_last)
    if not plain:
        result.zero_()[:, :, :: stride[0], :: stride[1]] = picked


def _of_weight(
    grad: Tensor,
    input: Tensor,
    stride: Sequence[int],
    channels_last: bool,
    result: Tensor,
    bias: Tensor | None,
) -> None:
    outputs, channels = result.shape[:2]
    images, pixels, input_pixels = input.shape[0], pixels_of(grad), pixels_of(input)
    if channels_last and tuple(stride) == (1, 1) and images * pixels < 2**31:
        images, pixels, input_pixels = 1, images * pixels, images * pixels
    settings = settings_for(
        SPACE,
        input,
        (images * pixels, channels, outputs),
        channels_last=channels_last,
        stride=stride,
        bias=bias is not None,
        precision=precision(input.dtype),
    )
    side = (power(outputs, settings.side), power(channels, settings.side))
    tiles = cdiv(outputs, side[0]) * cdiv(channels, side[1])
    unit, pixel_unit = common_unit(channels, outputs), common_unit(pixels, input_pixels)
    narrow = (unit if channels_last else pixel_unit) * grad.element_size() < 4
    few = narrow or grad.dtype == torch.float32
    step = min(settings.pixels, FEW_PIXELS) if few else settings.pixels
    steps = images * cdiv(pixels, step)
    slabs = max(1, min(steps, settings.waves * processors(input.device) // tiles))
    steps_of_slab = cdiv(steps, slabs)
    slabs = cdiv(steps, steps_of_slab) if steps else 1
    weight_slabs = grad.new_empty((slabs, outputs, channels), dtype=torch.float32)
    bias_slabs = None if bias is None else weight_slabs.new_empty((slabs, outputs))
    grid = (cdiv(channels, side[1]), cdiv(outputs, side[0]), slabs)
    wrap_triton(slab_kernel, input.device)[grid](
        grad,
        input,
        weight_slabs,
        bias_slabs,
        steps,
        steps_of_slab,
        pixels // pixel_unit,
        grad.shape[3],
        input_pixels // pixel_unit,
        input.shape[3],
        channels // unit,
        outputs // unit,
        PIXEL_UNIT=pixel_unit,
        CHANNEL_UNIT=unit,
        STRIDE_H=stride[0],
        STRIDE_W=stride[1],
        CHANNELS_LAST=channels_last,
        PRECISION=precision(input.dtype),
        WIDEN=widen(input.dtype),
        BLOCK_P=step,
        BLOCK_O=side[0],
        BLOCK_C=side[1],
        num_warps=settings.warps,
        num_stages=settings.stages,
    )
    if result.is_contiguous():
        add_slabs(weight_slabs, result)
    else:  # packed in rows of channels
        rows = result.new_empty((outputs, channels, 1, 1))
        add_slabs(weight_slabs, rows)
        result.copy_(rows)
    if bias is not None and bias_slabs is not None:
        add_slabs(bias_slabs, bias)


def add_slabs(slabs: Tensor, sums: Tensor) -> None:
    """sums, which is contiguous, as the sum of slabs over their first dimension."""
    numbers = sums.numel()
    wrap_triton(add_slabs_kernel, slabs.device)[cdiv(numbers, NUMBERS),](
        slabs, sums, numbers, slabs.shape[0], BLOCK_S=SLABS, BLOCK=NUMBERS, num_warps=WARPS
    )
