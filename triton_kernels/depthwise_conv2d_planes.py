"""depthwise_conv2d of planes whose rows are whole accesses: a thread reads 8 or 16 bytes at once.

A row moved to the column of a tap is aligned to nothing. So a thread reads the groups of numbers
around its own as they lie in memory and takes them apart into a tile a column: which of them a tap
meets is then known to the compiler. In bfloat16 on sm_90 3x3 takes 26 instructions an output so,
with those that only infinite weights run; number by number it took 46 without them, and takes 68
with them. The gates of tests/test_triton_compiled.py hold them.
"""

import math

import triton
import triton.language as tl
from torch import Tensor

from fastconv.triton_kernels._depthwise import Settings, Window, is_packed
from fastconv.triton_kernels._depthwise_padding import (
    correlate_row,
    has_infinite,
    leaves,
    write_row,
)
from fastconv.triton_kernels._kernel import block_of, cdiv, dense, wrap_triton
from fastconv.triton_kernels._language import activate, apart, load, store, together

# By what the compiler makes of them for sm_90.
LEAST_GROUP = 4  # numbers of an access: two would hardly be fewer accesses than one by one
MOST_TAPS = 25  # 5x5, held in registers
MOST_GROUPS = 4  # of a row, around one of the output
# Of a thread, by the 8 rows of Settings. 32 take 35 instructions an output, and 80 registers in
# place of 128: with both, far more is on its way than latency asks.
SUMS = 64


@triton.jit
def correlate_again(
    source,
    weight,
    bias,
    output,
    plane,
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
    PACKED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A tile of an image that met padding, from (first, column), where its weights need it."""
    TAPS: tl.constexpr = KERNEL_H * KERNEL_W
    STEP: tl.constexpr = -1 if FLIPPED else 1
    filter_tap, filter_channel = (channels, 1) if PACKED else (1, TAPS)
    channel = plane[None, :]
    exists = channel < channels
    filters = weight + channel * filter_channel
    if has_infinite(filters, filter_tap, filter_channel, exists, TAPS, 1, 16):
        tl.debug_barrier()  # the threads share out what they store in another way
        columns = column + tl.arange(0, COLUMNS)[:, None]
        writes = (columns < width) & exists
        reads = columns * STRIDE_W - PAD_LEFT
        source_plane = source_height.to(tl.int64) * source_width
        images = source + reads + channel // MULTIPLIER * source_plane
        first_filter = filters + (TAPS - 1 if FLIPPED else 0) * filter_tap
        offset = tl.zeros((1, plane.shape[0]), tl.float32)
        if bias is not None:
            offset = load(bias + channel, exists)
        at = output + columns + (channel * height.to(tl.int64) + first) * width
        for n in range(ROWS):
            z = offset + correlate_row(
                *(images, first_filter, (first + n) * STRIDE_H - PAD_TOP, reads),
                *(source_height, source_width, 1, source_plane),
                *(KERNEL_H, KERNEL_W, filter_tap, filter_channel, exists),
                *(KERNEL_W, DILATION_H, DILATION_W, STEP, STEP, 1),
            )
            write_row(at + n * width, z, n, height - first, writes, ACTIVATION)


@triton.jit(do_not_specialize=("source_height", "height", "row_blocks", "column_blocks"))
def planes_kernel(
    source,
    weight,
    bias,
    output,
    source_height,
    source_groups,
    height,
    groups,
    channels,
    row_blocks,
    column_blocks,
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
    PACKED: tl.constexpr,
    GROUP: tl.constexpr,
    BEFORE: tl.constexpr,
    AFTER: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """BEFORE and AFTER: the groups around the one that a group of the output begins in."""
    TAPS: tl.constexpr = KERNEL_H * KERNEL_W
    source_width, width = source_groups * GROUP, groups * GROUP
    program = tl.program_id(0)
    first_group = program % column_blocks * COLUMNS
    program //= column_blocks
    first = program % row_blocks * ROWS
    program //= row_blocks
    channel_blocks = tl.cdiv(channels, CHANNELS)
    plane = program % channel_blocks * CHANNELS + tl.arange(0, CHANNELS)
    image = (program // channel_blocks).to(tl.int64)
    channel = plane[:, None]
    exists = channel < channels
    source += image * (channels // MULTIPLIER) * source_height * source_width
    output += image * channels * height * width
    source_plane = source_height.to(tl.int64) * source_width
    out_plane = height.to(tl.int64) * width
    filter_tap, filter_channel = (channels, 1) if PACKED else (1, TAPS)

    taps = ()
    for t in tl.static_range(TAPS):
        at = weight + channel * filter_channel + (TAPS - 1 - t if FLIPPED else t) * filter_tap
        taps = taps + (load(at, exists),)
    offset = tl.zeros((CHANNELS, 1), tl.float32)
    if bias is not None:
        offset = load(bias + channel, exists)
    sums = ()
    for _ in tl.static_range(ROWS * GROUP):
        sums = sums + (tl.zeros((CHANNELS, COLUMNS), tl.float32),)

    lane = tl.arange(0, GROUP)[None, None, :]
    group = first_group + tl.arange(0, COLUMNS)[None, :, None]
    first_row = first * STRIDE_H - PAD_TOP
    images = source + (channel // MULTIPLIER * source_plane)[:, :, None] + lane
    for r in tl.static_range((ROWS - 1) * STRIDE_H + (KERNEL_H - 1) * DILATION_H + 1):
        row = first_row + r
        x = ()
        for q in tl.static_range(-BEFORE, AFTER + 1):
            at = group * STRIDE_W + q
            inside = (at >= 0) & (at < source_groups) & exists[:, :, None]
            inside = inside & (row + at * 0 >= 0) & (row + at * 0 < source_height)
            line = row.to(tl.int64) * source_width
            x = x + apart(load(images + line + at * GROUP, inside), GROUP)
        for i in tl.static_range(ROWS):
            for h in tl.static_range(KERNEL_H):
                if r == i * STRIDE_H + h * DILATION_H:
                    after = sums[(i + 1) * GROUP :]
                    now = sums[i * GROUP : (i + 1) * GROUP]
                    sums = sums[: i * GROUP]
                    for j in tl.static_range(GROUP):
                        sum = now[j]
                        for w in tl.static_range(KERNEL_W):
                            number = x[BEFORE * GROUP + j * STRIDE_W + w * DILATION_W - PAD_LEFT]
                            tap = tl.broadcast_to(taps[h * KERNEL_W + w], sum.shape)
                            sum = tl.fma(number, tap, sum)
                        sums = sums + (sum,)
                    sums = sums + after

    out = output + (channel * out_plane)[:, :, None] + group * GROUP + lane
    has = (group < groups) & exists[:, :, None]
    for i in tl.static_range(ROWS):
        row = first + i
        results = ()
        for j in tl.static_range(GROUP):
            results = results + (activate(sums[i * GROUP + j] + offset, ACTIVATION),)
        writes = has & (row + group * 0 < height)
        store(out + row.to(tl.int64) * width, together(results, GROUP), writes)

    first_column = first_group * GROUP * STRIDE_W - PAD_LEFT
    if leaves(first_row, source_height, ROWS, STRIDE_H, KERNEL_H, DILATION_H) or leaves(
        first_column, source_width, COLUMNS * GROUP, STRIDE_W, KERNEL_W, DILATION_W
    ):
        correlate_again(
            *(source, weight, bias, output, plane, channels, first, first_group * GROUP),
            *(source_height, source_width, height, width),
            *(KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, DILATION_H, DILATION_W),
            *(PAD_TOP, PAD_LEFT, FLIPPED, MULTIPLIER, ACTIVATION, PACKED, ROWS, COLUMNS * GROUP),
        )


def correlate_planes(
    source: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    output: Tensor,
    window: Window,
    transposed: bool,
    activation: str | None,
    settings: Settings,
) -> bool:
    """The correlation of contiguous tensors; whether their rows are whole accesses.

    Transposed, without a stride, it is that with the filters turned around.
    """
    stride, padding, dilation = window
    batch, channels, height, width = output.shape
    kernel_h, kernel_w = weight.shape[2:]
    multiplier = weight.shape[0] // min(channels, source.shape[1])
    group = math.gcd(source.shape[3], width, 16 // source.element_size())
    top, left = padding[:2]
    if transposed:
        top, left = dilation[0] * (kernel_h - 1) - top, dilation[1] * (kernel_w - 1) - left
    before = max(0, cdiv(left, group))
    last = (group - 1) * stride[1] + (kernel_w - 1) * dilation[1] - left
    after = max(0, last // group)
    if group < LEAST_GROUP or kernel_h * kernel_w > MOST_TAPS or before + after >= MOST_GROUPS:
        return False
    if transposed and (tuple(stride) != (1, 1) or multiplier > 1):
        return False
    most = max(1, settings.rows * SUMS // 8 // group)
    rows = min(
        (min(n, height) for n in range(most, most // 2, -1)), key=lambda n: cdiv(height, n) * n
    )
    threads = settings.plane_tile // 2
    of_columns = block_of(width // group, threads)
    of_channels = block_of(channels, threads // of_columns)
    column_blocks, row_blocks = cdiv(width // group, of_columns), cdiv(height, rows)
    packed = is_packed(weight)
    programs = batch * cdiv(channels, of_channels) * row_blocks * column_blocks
    wrap_triton(planes_kernel, output.device)[programs,](
        dense(source, channels_last=False),
        weight if packed else weight.contiguous(),
        bias,
        output,
        source.shape[2],
        source.shape[3] // group,
        height,
        width // group,
        channels,
        row_blocks,
        column_blocks,
        KERNEL_H=kernel_h,
        KERNEL_W=kernel_w,
        STRIDE_H=stride[0],
        STRIDE_W=stride[1],
        DILATION_H=dilation[0],
        DILATION_W=dilation[1],
        PAD_TOP=top,
        PAD_LEFT=left,
        FLIPPED=transposed,
        MULTIPLIER=multiplier,
        ACTIVATION=activation,
        PACKED=packed,
        GROUP=group,
        BEFORE=before,
        AFTER=after,
        ROWS=rows,
        COLUMNS=of_columns,
        CHANNELS=of_channels,
        num_warps=max(of_columns * of_channels // 32, 1),
    )
    return True
