"""depthwise_conv2d's gradients for weight and bias, the same bits at every run.

A program sums a group of taps over a slab of the pixels of all images: each tap has a tile of sums
of its own in registers, which at last adds up to one number a channel. A second kernel adds the
slabs in their order. As in the forward pass, a row of the input is read once for all rows of
grad_output that meet it.
"""

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastconv.ops.depthwise_conv2d import fake_backward_weight
from fastconv.triton_kernels._depthwise import (
    WEIGHT_SPACES,
    axes_of,
    check_grad_output,
    place_of,
    rows_of,
    settings_of,
    tile,
)
from fastconv.triton_kernels._depthwise_padding import has_nan, sum_of_tap
from fastconv.triton_kernels._kernel import (
    cdiv,
    dense,
    is_channels_last,
    kernel,
    processors,
    wrap_triton,
)
from fastconv.triton_kernels._language import load, store

# Settings, beside those of _depthwise.py, by what the compiler makes of them for sm_90.
MOST_COLUMNS = 8
ROWS = (4, 7, 5, 6, 3, 2)  # the first that leaves no row over: each holds 4 registers
SLABS, CHANNELS, WARPS = 16, 64, 4  # of the second kernel: 8 numbers a thread in flight

SIZES = ("in_height", "in_width", "height", "width", "pad_top", "pad_left")
BLOCKS = ("items", "slab", "row_phases", "row_blocks", "column_blocks")


@triton.jit(do_not_specialize=(*SIZES, *BLOCKS))
def slab_kernel(
    grad_output,
    input,
    partial,
    vectors,
    in_height,
    in_width,
    height,
    width,
    pad_top,
    pad_left,
    items,
    slab,
    row_phases,
    row_blocks,
    column_blocks,
    VECTOR: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    PHASES: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    TAPS_H: tl.constexpr,
    TAPS_W: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    channels = vectors * VECTOR
    in_channels = channels // MULTIPLIER
    channel_blocks = tl.cdiv(channels, CHANNELS)
    GROUPS_W: tl.constexpr = (KERNEL_W + TAPS_W - 1) // TAPS_W
    GROUPS: tl.constexpr = (KERNEL_H + TAPS_H - 1) // TAPS_H * GROUPS_W
    SHIFT: tl.constexpr = STRIDE_H * PHASES // DILATION_H

    program = tl.program_id(0)
    channel = program % channel_blocks * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    group = program // channel_blocks % GROUPS
    number = program // channel_blocks // GROUPS
    tap_h = group // GROUPS_W * TAPS_H
    tap_w = group % GROUPS_W * TAPS_W
    exists = channel < channels
    if CHANNELS_LAST:
        in_pixel, in_plane = in_channels, 1
        pixel, plane = channels, 1
    else:
        in_pixel, in_plane = 1, in_height.to(tl.int64) * in_width
        pixel, plane = 1, height.to(tl.int64) * width
    grads_of = grad_output + channel * plane
    images_of = input + channel // MULTIPLIER * in_plane

    sums = ()
    for _ in tl.static_range(TAPS_H * TAPS_W):
        sums = sums + (tl.zeros((COLUMNS, CHANNELS), tl.float32),)
    of_bias = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    blocks = (row_phases, row_blocks, column_blocks)
    end = tl.minimum(number * slab + slab, items)
    for item in range(number * slab, end):
        image, first, column = place_of(item, *blocks, PHASES, ROWS, COLUMNS)
        within = (column < width) & exists
        grads_at = grads_of + image * channels * height * width + column.to(tl.int64) * pixel
        grads = ()
        for i in tl.static_range(ROWS):
            row = first + i * PHASES
            writes = within & (row + column * 0 < height)
            grad = load(grads_at + row.to(tl.int64) * width * pixel, writes)
            grads = grads + (grad,)
            of_bias += grad

        in_row = first * STRIDE_H - pad_top + tap_h * DILATION_H
        images_at = images_of + image * in_channels * in_height * in_width
        for r in tl.static_range((ROWS - 1) * SHIFT + TAPS_H):
            at = in_row + r * DILATION_H
            reads = at + column * 0
            reads = (reads >= 0) & (reads < in_height) & within
            line = images_at + at.to(tl.int64) * in_width * in_pixel
            for w in tl.static_range(TAPS_W):
                in_column = column * STRIDE_W - pad_left + (tap_w + w) * DILATION_W
                in_image = reads & (in_column >= 0) & (in_column < in_width)
                x = load(line + in_column.to(tl.int64) * in_pixel, in_image)
                for i in tl.static_range(ROWS):
                    if r >= i * SHIFT and r - i * SHIFT < TAPS_H:
                        sum = sums[(r - i * SHIFT) * TAPS_W + w]
                        sum = tl.fma(grads[i], x, sum)
                        sums = (
                            sums[: (r - i * SHIFT) * TAPS_W + w]
                            + (sum,)
                            + sums[(r - i * SHIFT) * TAPS_W + w + 1 :]
                        )

    partial += number.to(tl.int64) * (KERNEL_H * KERNEL_W + 1) * channels + channel
    together = tl.zeros((1, CHANNELS), tl.float32)
    for h in tl.static_range(TAPS_H):
        for w in tl.static_range(TAPS_W):
            total = tl.sum(sums[h * TAPS_W + w], axis=0, keep_dims=True)
            together += total
            inside = (tap_h + h < KERNEL_H) & (tap_w + w < KERNEL_W)
            at = (tap_h + h) * KERNEL_W + tap_w + w
            if inside:
                tl.store(partial + at * channels, total, mask=exists)
    if has_nan(together):
        tl.debug_barrier()  # the threads may share out what they store in another way
        for t in range(TAPS_H * TAPS_W):
            k, j = tap_h + t // TAPS_W, tap_w + t % TAPS_W
            if (k < KERNEL_H) & (j < KERNEL_W):
                total = sum_of_tap(
                    *(grads_of, images_of, number * slab, end),
                    *blocks,
                    *(pad_top - k * DILATION_H, pad_left - j * DILATION_W),
                    *(in_height, in_width, in_pixel, in_channels),
                    *(height, width, pixel, channels, exists),
                    *(STRIDE_H, STRIDE_W, PHASES, ROWS, COLUMNS),
                )
                tl.store(partial + (k * KERNEL_W + j) * channels, total, mask=exists)
    if group == 0:
        total = tl.sum(of_bias, axis=0, keep_dims=True)
        tl.store(partial + KERNEL_H * KERNEL_W * channels, total, mask=exists)


@triton.jit
def sum_kernel(
    partial,
    grad_weight,
    grad_bias,
    slabs,
    channels,
    stride_channel,
    stride_row,
    stride_column,
    KERNEL_W: tl.constexpr,
    TAPS: tl.constexpr,
    SLABS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """A tap of CHANNELS channels: its slabs added in their order, SLABS of them side by side."""
    blocks = tl.cdiv(channels, CHANNELS)
    channel = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)
    tap = tl.program_id(0) // blocks
    slab = tl.arange(0, SLABS)
    exists = channel < channels
    partial += (slab.to(tl.int64) * (TAPS + 1) * channels)[:, None] + (tap * channels + channel)[
        None, :
    ]
    sums = tl.zeros((SLABS, CHANNELS), tl.float32)
    for first in range(0, slabs, SLABS):
        sums += load(partial, (first + slab < slabs)[:, None] & exists[None, :])
        partial += SLABS * (TAPS + 1) * channels
    total = tl.sum(sums, axis=0)
    if tap == TAPS:
        store(grad_bias + channel, total, exists)
    else:
        grad_weight += tap // KERNEL_W * stride_row + tap % KERNEL_W * stride_column
        store(grad_weight + channel * stride_channel, total, exists)


@kernel
def depthwise_conv2d_backward_weight(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Tensor, Tensor]:
    name = "depthwise_conv2d_backward_weight"
    check_grad_output(name, grad_output, input, weight, (stride, padding, dilation))
    grad_weight, grad_bias = fake_backward_weight(grad_output, input, weight)
    batch, channels, height, width = grad_output.shape
    if batch == 0:
        return grad_weight.zero_(), grad_bias.zero_()

    channels_last = is_channels_last(input)
    kernel_h, kernel_w = weight.shape[2:]
    space, window = WEIGHT_SPACES[channels_last], (stride, padding, dilation)
    rows, columns = axes_of(False, input, weight, window)
    settings = settings_of(space, input, grad_output.shape, weight, window)
    tile_columns, tile_channels, warps = tile(
        settings, channels, width, channels_last, input.element_size()
    )
    of_phase = cdiv(height, rows.phases)
    taps_w = cdiv(kernel_w, cdiv(kernel_w, min(MOST_COLUMNS, settings.taps)))
    taps_h = min(kernel_h, settings.taps // taps_w)
    tile_rows = rows_of(of_phase, rows, taps_h, ROWS)
    row_phases, row_blocks = min(rows.phases, height), cdiv(of_phase, tile_rows)
    column_blocks = cdiv(width, tile_columns)

    side_by_side = cdiv(channels, tile_channels) * cdiv(kernel_h, taps_h) * cdiv(kernel_w, taps_w)
    items = batch * row_phases * row_blocks * column_blocks
    wanted = cdiv(processors(input.device) * settings.programs, side_by_side)
    slab = cdiv(items, min(items, wanted))
    slabs = cdiv(items, slab)
    taps = kernel_h * kernel_w
    partial = torch.empty((slabs, taps + 1, channels), dtype=torch.float32, device=input.device)
    vector = math.gcd(channels, 16) if channels_last else 1
    wrap_triton(slab_kernel, input.device)[side_by_side * slabs,](
        dense(grad_output, channels_last),
        dense(input, channels_last),
        partial,
        channels // vector,
        *input.shape[2:],
        height,
        width,
        *padding[:2],
        items,
        slab,
        row_phases,
        row_blocks,
        column_blocks,
        VECTOR=vector,
        MULTIPLIER=channels // input.shape[1],
        KERNEL_H=kernel_h,
        KERNEL_W=kernel_w,
        STRIDE_H=rows.stride,
        STRIDE_W=columns.stride,
        DILATION_H=rows.dilation,
        DILATION_W=columns.dilation,
        PHASES=rows.phases,
        CHANNELS_LAST=channels_last,
        TAPS_H=taps_h,
        TAPS_W=taps_w,
        ROWS=tile_rows,
        COLUMNS=tile_columns,
        CHANNELS=tile_channels,
        num_warps=warps,
    )
    wrap_triton(sum_kernel, input.device)[(taps + 1) * cdiv(channels, CHANNELS),](
        partial,
        grad_weight,
        grad_bias,
        slabs,
        channels,
        grad_weight.stride(0),
        grad_weight.stride(2),
        grad_weight.stride(3),
        KERNEL_W=kernel_w,
        TAPS=taps,
        SLABS=SLABS,
        CHANNELS=CHANNELS,
        num_warps=WARPS,
    )
    return grad_weight, grad_bias
