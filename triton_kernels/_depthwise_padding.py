"""What the kernels of depthwise_conv2d owe to padding: a tap that lies in it counts as not there.

They read padding as zero and multiply it like all else, and zero times an infinite or NaN weight is
NaN, where torch has a number. So a tile that met padding, with such a weight, is computed once
more, each product on a condition. To put every product on one would cost 29 to 46 % more
instructions; to look for such weights costs about 3 % at the border and up to 3 % inside.
"""

import triton
import triton.language as tl

from fastconv.triton_kernels._depthwise import place_of
from fastconv.triton_kernels._language import activate, load, store


@triton.jit
def write_row(output, z, row, rows, writes, ACTIVATION: tl.constexpr):
    """The activation of z, a row of a tile, where it is one of the rows that there are."""
    store(output, activate(z, ACTIVATION), writes & (row + tl.zeros_like(z).to(tl.int32) < rows))


@triton.jit
def leaves(
    first, size, COUNT: tl.constexpr, ADVANCE: tl.constexpr, TAPS: tl.constexpr, UNIT: tl.constexpr
):
    """Whether one of COUNT outputs, of which the first reads at first, reads beyond 0 .. size."""
    return (first < 0) | (first + (COUNT - 1) * ADVANCE + (TAPS - 1) * UNIT >= size)


@triton.jit
def has_nan(tile):
    """Whether a tile holds a NaN, or infinities of both signs."""
    sum = tl.sum(tl.sum(tile, axis=1), axis=0)
    return sum != sum


@triton.jit
def has_infinite(
    weights,
    filter_tap,
    filter_channel,
    exists,
    KERNEL: tl.constexpr,
    SUMMED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Whether one of the weights, KERNEL of each filter, is infinite or NaN.

    All threads share in looking, whoever multiplies by them.
    """
    tap = tl.arange(0, BLOCK)[:, None]
    zeros = tl.zeros((BLOCK, exists.shape[1]), tl.float32)
    for summed in range(SUMMED):
        for first in range(0, KERNEL, BLOCK):
            at = weights + (first + tap) * filter_tap + summed * filter_channel
            numbers = load(at, (first + tap < KERNEL) & exists)
            zeros += numbers - numbers
    return has_nan(zeros)


@triton.jit
def correlate_row(
    source,
    filters,
    row,
    column,
    source_height,
    source_width,
    source_pixel,
    source_plane,
    taps_h,
    taps_w,
    filter_tap,
    filter_channel,
    exists,
    KERNEL_W: tl.constexpr,
    UNIT_H: tl.constexpr,
    UNIT_W: tl.constexpr,
    STEP_H: tl.constexpr,
    STEP_W: tl.constexpr,
    SUMMED: tl.constexpr,
):
    """A row of a tile, which reads its first tap at (row, column): the sums in their usual order.

    source is where it would read a row 0, filters where its first tap is.
    """
    sums = tl.zeros((column.shape[0], exists.shape[1]), tl.float32)
    for summed in range(SUMMED):
        for t in range(taps_h * taps_w):
            w, h = t // taps_h, t % taps_h
            at = column + w * UNIT_W
            line = row + h * UNIT_H + at * 0
            inside = (at >= 0) & (at < source_width) & exists & (line >= 0) & (line < source_height)
            pixel = line.to(tl.int64) * source_width + w * UNIT_W
            x = load(source + pixel * source_pixel + summed * source_plane, inside)
            tap = (h * STEP_H * KERNEL_W + w * STEP_W) * filter_tap + summed * filter_channel
            tap = tl.broadcast_to(load(filters + tap, exists), sums.shape)
            sums = tl.where(inside, tl.fma(x, tap, sums), sums)
    return sums


@triton.jit
def correlate_tile(
    source,
    weight,
    bias,
    output,
    channel,
    channels,
    first,
    column,
    source_height,
    source_width,
    height,
    width,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    PAD_TOP: tl.constexpr,
    PAD_LEFT: tl.constexpr,
    FLIPPED: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    ACTIVATION: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PACKED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """ROWS x COLUMNS outputs of some channels of an image, from (first, column)."""
    TAPS: tl.constexpr = KERNEL_H * KERNEL_W
    STEP: tl.constexpr = -1 if FLIPPED else 1
    filter_tap, filter_channel = (channels, 1) if PACKED else (1, TAPS)
    channel = channel[None, :]
    exists = channel < channels
    if CHANNELS_LAST:
        source_pixel, source_plane = channels // MULTIPLIER, 1
        pixel, plane = channels, 1
    else:
        source_pixel, source_plane = 1, source_height.to(tl.int64) * source_width
        pixel, plane = 1, height.to(tl.int64) * width
    columns = column + tl.arange(0, COLUMNS)[:, None]
    writes = (columns < width) & exists
    reads = columns * STRIDE_W - PAD_LEFT
    images = source + reads.to(tl.int64) * source_pixel + channel // MULTIPLIER * source_plane
    filters = weight + channel * filter_channel
    first_filter = filters + (TAPS - 1 if FLIPPED else 0) * filter_tap
    offset = tl.zeros((1, channel.shape[1]), tl.float32)
    if bias is not None:
        offset = load(bias + channel, exists)
    at = output + channel * plane + (columns + first.to(tl.int64) * width) * pixel
    kernel_h, rows = KERNEL_H, ROWS
    if TAPS > 25:  # the compiler is not to unroll what hardly ever runs
        kernel_h, rows = tl.minimum(height, 1) * KERNEL_H, tl.minimum(height - first, ROWS)
    for n in range(rows):
        z = offset + correlate_row(
            *(images, first_filter, (first + n) * STRIDE_H - PAD_TOP, reads),
            *(source_height, source_width, source_pixel, source_plane),
            *(kernel_h, KERNEL_W, filter_tap, filter_channel, exists),
            *(KERNEL_W, DILATION_H, DILATION_W, STEP, STEP, 1),
        )
        write_row(at + width.to(tl.int64) * n * pixel, z, n, height - first, writes, ACTIVATION)


@triton.jit
def sum_of_tap(
    grads,
    images,
    first_item,
    end,
    row_phases,
    row_blocks,
    column_blocks,
    pad_top,
    pad_left,
    in_height,
    in_width,
    in_pixel,
    in_channels,
    height,
    width,
    pixel,
    channels,
    exists,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PHASES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The sum of a slab for one tap, (1, channels): the padding less the place of the tap."""
    sums = tl.zeros((COLUMNS, exists.shape[1]), tl.float32)
    for item in range(first_item, end):
        image, first, column = place_of(
            item, row_phases, row_blocks, column_blocks, PHASES, ROWS, COLUMNS
        )
        in_column = column * STRIDE_W - pad_left
        for i in range(ROWS):
            row = first + i * PHASES + column * 0
            in_row = row * STRIDE_H - pad_top
            inside = (in_row >= 0) & (in_row < in_height) & (row < height) & (column < width)
            inside = inside & (in_column >= 0) & (in_column < in_width) & exists
            at = image * channels * height * width
            at += (row.to(tl.int64) * width + column) * pixel
            grad = load(grads + at, inside)
            in_at = image * in_channels * in_height * in_width
            in_at += (in_row.to(tl.int64) * in_width + in_column) * in_pixel
            sums = tl.where(inside, tl.fma(grad, load(images + in_at, inside), sums), sums)
    return tl.sum(sums, axis=0, keep_dims=True)
