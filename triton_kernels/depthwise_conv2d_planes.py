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

from fastconv.triton_kernels._depthwise import Settings, is_packed
from fastconv.triton_kernels._depthwise_padding import (
    correlate_tile,
    has_infinite,
    leaves,
)
from fastconv.triton_kernels._depthwise_plain import Correlation, rows_of
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
    filter_tap, filter_channel = (channels, 1) if PACKED else (1, TAPS)
    exists = plane[None, :] < channels
    filters = weight + plane[None, :] * filter_channel
    if has_infinite(filters, filter_tap, filter_channel, exists, TAPS, 1, 16):
        tl.debug_barrier()  # the threads share out what they store in another way
        correlate_tile(
            *(source, weight, bias, output, plane, channels, first, column),
            *(source_height, source_width, height, width),
            *(KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, DILATION_H, DILATION_W),
            *(PAD_TOP, PAD_LEFT, FLIPPED, MULTIPLIER, ACTIVATION, False, PACKED, ROWS, COLUMNS),
        )


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
    given: Correlation,
    activation: str | None,
    settings: Settings,
) -> bool:
    """The correlation of contiguous tensors; whether their rows are whole accesses."""
    batch, channels, height, width = output.shape
    group = math.gcd(source.shape[3], width, 16 // source.element_size())
    before = max(0, cdiv(given.pad_left, group))
    last = (group - 1) * given.stride_w + given.reach - 1 - given.pad_left
    after = max(0, last // group)
    taps = given.kernel_h * given.kernel_w
    if group < LEAST_GROUP or taps > MOST_TAPS or before + after >= MOST_GROUPS:
        return False
    rows = rows_of(height, max(1, settings.rows * SUMS // 8 // group))
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
        **given.constants(),
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
