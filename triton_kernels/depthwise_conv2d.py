"""depthwise_conv2d and its gradient for the input: one kernel correlates images with filters.

A program computes ROWS x COLUMNS pixels of CHANNELS channels, each row a tile of its own in
registers. A row of the source, moved to the column of a tap, is read once and multiplied into every
row of the output that it reaches (_depthwise.py says which). By fma: a tl.dot would be of zeros but
for a band, which pays for large filters in 16 bits (depthwise_conv2d_bands.py).
"""

import math
from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from fastconv.ops.depthwise_conv2d import fake, fake_backward_input
from fastconv.triton_kernels._depthwise import (
    SPACES,
    Window,
    add_taps,
    axes_of,
    check_grad_output,
    first_tap,
    is_packed,
    rows_of,
    settings_of,
    tile,
)
from fastconv.triton_kernels._depthwise_padding import (
    correlate_row,
    has_infinite,
    leaves,
    write_row,
)
from fastconv.triton_kernels._depthwise_plain import Correlation
from fastconv.triton_kernels._kernel import cdiv, dense, is_channels_last, kernel, wrap_triton
from fastconv.triton_kernels._language import load
from fastconv.triton_kernels.depthwise_conv2d_bands import correlate_bands
from fastconv.triton_kernels.depthwise_conv2d_planes import correlate_planes

# Settings, beside those of _depthwise.py, by what the compiler makes of them for sm_90.
# Filters up to this width are unrolled: 5x5 in bfloat16 takes 62 instructions an output, and 83 in
# a loop over columns. Wider ones would not fit the instruction cache.
UNROLLED = 5
# More rows of a filter at a time, as 31 of 31x31, spill 1 KB a thread.
MOST_TAPS = 7

SIZES = ("source_height", "source_width", "height", "width", "pad_top", "pad_left")
BLOCKS = ("row_phases", "row_blocks", "column_phases", "column_blocks")


# Else sizes of 1, and those that 16 divides, had kernels of their own.
@triton.jit(do_not_specialize=(*SIZES, *BLOCKS))
def correlate_kernel(
    source,
    weight,
    bias,
    output,
    vectors,
    source_height,
    source_width,
    height,
    width,
    pad_top,
    pad_left,
    row_phases,
    row_blocks,
    column_phases,
    column_blocks,
    VECTOR: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    KERNEL_H: tl.constexpr,
    STRIDE_H: tl.constexpr,
    DILATION_H: tl.constexpr,
    PHASES_H: tl.constexpr,
    ADVANCE_H: tl.constexpr,
    UNIT_H: tl.constexpr,
    TAPS_H: tl.constexpr,
    STEP_H: tl.constexpr,
    INVERSE_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_W: tl.constexpr,
    DILATION_W: tl.constexpr,
    PHASES_W: tl.constexpr,
    ADVANCE_W: tl.constexpr,
    UNIT_W: tl.constexpr,
    TAPS_W: tl.constexpr,
    STEP_W: tl.constexpr,
    INVERSE_W: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PACKED: tl.constexpr,
    UNROLL: tl.constexpr,
    MOST_TAPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    # vectors * VECTOR tells Triton what channels is a multiple of: how wide its accesses may be.
    channels = vectors * VECTOR
    SUMMED: tl.constexpr = MULTIPLIER if TRANSPOSED else 1
    source_channels = channels * MULTIPLIER if TRANSPOSED else channels // MULTIPLIER

    program = tl.program_id(0)
    channel_blocks = tl.cdiv(channels, CHANNELS)
    channel = program % channel_blocks * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    program //= channel_blocks
    column_phase = program % column_phases
    program //= column_phases
    first_index = program % column_blocks * COLUMNS
    column_index = first_index + tl.arange(0, COLUMNS)[:, None]
    program //= column_blocks
    row_phase = program % row_phases
    program //= row_phases
    row_index = program % row_blocks * ROWS
    image = (program // row_blocks).to(tl.int64)

    first_row, taps_h, tap_h = first_tap(
        row_phase, pad_top, KERNEL_H, STRIDE_H, DILATION_H, UNIT_H, INVERSE_H, TRANSPOSED
    )
    first_column, taps_w, tap_w = first_tap(
        column_phase, pad_left, KERNEL_W, STRIDE_W, DILATION_W, UNIT_W, INVERSE_W, TRANSPOSED
    )
    first_row += row_index * ADVANCE_H
    source_column = first_column + column_index * ADVANCE_W
    first_column += first_index * ADVANCE_W
    if TRANSPOSED and STRIDE_H > 1:
        taps_w = tl.where(taps_h > 0, taps_w, 0)
    exists = channel < channels

    if CHANNELS_LAST:
        source_pixel, source_plane = source_channels, 1
        pixel, plane = channels, 1
    else:
        source_pixel, source_plane = 1, source_height.to(tl.int64) * source_width
        pixel, plane = 1, height.to(tl.int64) * width
    filter_tap, filter_channel = (channels * SUMMED, 1) if PACKED else (1, KERNEL_H * KERNEL_W)
    source_line = source_width.to(tl.int64) * source_pixel
    filter_line = STEP_H * KERNEL_W * filter_tap
    CHUNK: tl.constexpr = min(TAPS_H, MOST_TAPS)
    SHIFT: tl.constexpr = ADVANCE_H // UNIT_H

    sums = ()
    for _ in tl.static_range(ROWS):
        sums = sums + (tl.zeros((COLUMNS, CHANNELS), tl.float32),)
    source_channel = channel * MULTIPLIER if TRANSPOSED else channel // MULTIPLIER
    source += image * source_channels * source_height * source_width
    source += source_column.to(tl.int64) * source_pixel + source_channel * source_plane
    weight += channel * SUMMED * filter_channel
    first_filter = weight + (tap_h * KERNEL_W + tap_w) * filter_tap
    for summed in range(SUMMED):
        images = source + summed * source_plane
        filters = first_filter + summed * filter_channel
        for tap in tl.range(0, taps_w, loop_unroll_factor=UNROLL):
            column = source_column + tap * UNIT_W
            reads = (column >= 0) & (column < source_width) & exists
            at = images + (image * 0 + tap * UNIT_W) * source_pixel
            filter_at = filters + tap * STEP_W * filter_tap
            given = (source_line, source_height, reads, filter_line, exists)
            for chunk in range(TAPS_H // CHUNK):
                sums = add_taps(
                    *(sums, at, first_row + chunk * CHUNK * UNIT_H),
                    *(filter_at + chunk * CHUNK * filter_line, taps_h >= (chunk + 1) * CHUNK),
                    *given,
                    *(CHUNK, STEP_H < -1 and TAPS_H % CHUNK == 0, SHIFT, UNIT_H, ROWS),
                )
            if TAPS_H % CHUNK > 0:
                sums = add_taps(
                    *(sums, at, first_row + TAPS_H // CHUNK * CHUNK * UNIT_H),
                    *(filter_at + TAPS_H // CHUNK * CHUNK * filter_line, taps_h == TAPS_H),
                    *given,
                    *(TAPS_H % CHUNK, STEP_H < -1, SHIFT, UNIT_H, ROWS),
                )

    offset = tl.zeros((1, CHANNELS), tl.float32)
    if bias is not None:
        offset = load(bias + channel, exists)
    column = column_phase + column_index * PHASES_W
    row = row_phase + row_index * PHASES_H
    writes = (column < width) & exists
    output += image * channels * height * width + channel * plane
    output += column.to(tl.int64) * pixel + row.to(tl.int64) * width * pixel
    line = width.to(tl.int64) * pixel * PHASES_H
    rows = (height - row + PHASES_H - 1) // PHASES_H
    for i in tl.static_range(ROWS):
        write_row(output + i * line, sums[i] + offset, i, rows, writes, ACTIVATION)

    if leaves(first_row, source_height, ROWS, ADVANCE_H, TAPS_H, UNIT_H) or leaves(
        first_column, source_width, COLUMNS, ADVANCE_W, TAPS_W, UNIT_W
    ):
        taps = (filter_tap, filter_channel, exists)
        if has_infinite(weight, *taps, KERNEL_H * KERNEL_W, SUMMED, 16):
            tl.debug_barrier()  # the threads may share out what they store in another way
            for n in range(ROWS):
                z = offset + correlate_row(
                    *(source, first_filter, first_row + n * ADVANCE_H, source_column),
                    *(source_height, source_width, source_pixel, source_plane),
                    *(taps_h, taps_w, filter_tap, filter_channel, exists),
                    *(KERNEL_W, UNIT_H, UNIT_W, STEP_H, STEP_W, SUMMED),
                )
                write_row(output + n * line, z, n, rows, writes, ACTIVATION)


def _correlate(
    source: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    output: Tensor,
    channels_last: bool,
    window: Window,
    transposed: bool,
    activation: str | None,
) -> None:
    if output.numel() == 0:
        return
    plain = Correlation.of(source, weight, output, window, transposed)
    given = (source, weight, bias, output)
    if plain and correlate_bands(*given, plain, activation, channels_last):
        return
    space = SPACES[channels_last]
    settings = settings_of(space, source, output.shape, weight, window, transposed=transposed)
    if plain and not channels_last and correlate_planes(*given, plain, activation, settings):
        return
    batch, channels, height, width = output.shape
    rows, columns = axes_of(transposed, output if transposed else source, weight, window)
    tile_columns, tile_channels, warps = tile(
        settings, channels, cdiv(width, columns.phases), channels_last, source.element_size()
    )
    row_phases = min(rows.phases, height)
    choice = range(settings.rows, settings.rows // 2 - 1, -1)
    tile_rows = rows_of(cdiv(height, rows.phases), rows, min(rows.taps, MOST_TAPS), choice)
    row_blocks = cdiv(cdiv(height, rows.phases), tile_rows)
    column_phases = min(columns.phases, width)
    column_blocks = cdiv(cdiv(width, columns.phases), tile_columns)
    packed = is_packed(weight)
    vector = math.gcd(channels, 16) if channels_last else 1
    blocks = (row_phases, row_blocks, column_phases, column_blocks, cdiv(channels, tile_channels))
    wrap_triton(correlate_kernel, output.device)[batch * math.prod(blocks),](
        dense(source, channels_last),
        weight if packed else weight.contiguous(),
        bias,
        output,
        channels // vector,
        *source.shape[2:],
        height,
        width,
        *window[1][:2],
        *blocks[:4],
        VECTOR=vector,
        MULTIPLIER=weight.shape[0] // min(channels, source.shape[1]),
        **rows.constants("H"),
        **columns.constants("W"),
        TRANSPOSED=transposed,
        ACTIVATION=activation,
        CHANNELS_LAST=channels_last,
        PACKED=packed,
        UNROLL=columns.taps if columns.taps <= UNROLLED else 1,
        MOST_TAPS=MOST_TAPS,
        ROWS=tile_rows,
        COLUMNS=tile_columns,
        CHANNELS=tile_channels,
        num_warps=warps,
    )


@kernel
def depthwise_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    activation: str | None = None,
) -> Tensor:
    output = fake(input, weight, bias, stride, padding, dilation, activation)
    bias = None if bias is None else bias.contiguous()
    window = (stride, padding, dilation)
    _correlate(input, weight, bias, output, is_channels_last(input), window, False, activation)
    return output


@kernel
def depthwise_conv2d_backward_input(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    window = (stride, padding, dilation)
    check_grad_output("depthwise_conv2d_backward_input", grad_output, input, weight, window)
    grad_input = fake_backward_input(grad_output, input, weight)
    layout = is_channels_last(input)
    _correlate(grad_output, weight, None, grad_input, layout, window, True, None)
    return grad_input
