"""What the kernels of depthwise_conv2d share: how outputs reach their source, and tiles of them.

Along an axis the outputs fall into PHASES, of which every PHASES-th output is one. Output i of a
phase reads tap t at first + i ADVANCE + t UNIT of the source, so that the outputs of a phase share
what they read whatever stride and dilation are. Transposed, for the gradient, a phase is the pixels
that the same taps of the filter reach, from the last to the first; no tap is tried in vain.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from fastconv.ops._check import check_like_input
from fastconv.ops._window import output_sizes
from fastconv.triton_kernels._kernel import block_of, cdiv, check_shape
from fastconv.triton_kernels._language import load
from fastconv.triton_kernels._settings import S, Space
from fastconv.triton_kernels._tuned import settings_for

# All of them may be on their way at once: 17 rows, of 8 rows of 3x3 with stride 2, spill.
MOST_SOURCE_ROWS = 14

Window = tuple[Sequence[int], Sequence[int], Sequence[int]]  # stride, padding, dilation


@dataclass(frozen=True)
class TileSettings:
    """The sizes of a tile, by arithmetic, for no GPU was at hand."""

    # Of channels_last tensors: an access of 16 bytes a thread, 128 bytes of channels a pixel, which
    # is a cache line.
    tile_bytes: int = 128 * 16
    channel_bytes: int = 128
    # Of planes: 4 numbers a thread, neighbours in neighbouring threads, for a row moved by a column
    # is aligned to nothing and is read number by number.
    plane_tile: int = 256


# By whether tensors are channels_last. Smaller tiles leave less of a small map over, larger ones
# read fewer columns twice; half a cache line leaves more pixels to a tile.
OTHER_TILES: dict[bool, dict[str, Sequence[int]]] = {
    True: {"tile_bytes": (1024, 4096), "channel_bytes": (64, 256)},
    False: {"plane_tile": (128, 512)},
}


@dataclass(frozen=True)
class Settings(TileSettings):
    """Chosen by what the compiler makes of them for sm_90, for no GPU was at hand."""

    # The most of a tile, down to half as many. Each further row saves source rows, (ROWS + k - 1) /
    # ROWS a tap column, for 8 registers: 5x5 in bfloat16 takes 76 instructions an output by 4 rows
    # and 62 by 7. From 4 to 8, one leaves nothing over in the usual maps of 7, 14, 28, 56 and 112.
    rows: int = 8


# Fewer rows start more programs, of fewer registers.
SPACES = {
    channels_last: Space(
        f"depthwise_conv2d {'nhwc' if channels_last else 'nchw'}",
        Settings(),
        {"rows": (4, 2), **others},
    )
    for channels_last, others in OTHER_TILES.items()
}


@dataclass(frozen=True)
class WeightSettings(TileSettings):
    """Of the gradients for weight and bias; chosen likewise."""

    # Sums of 8 registers each: 10 leave room for the rows of grad_output within 255.
    taps: int = 10
    # A processor: 4 of 128 threads and 128 registers fit, and a second round evens out.
    programs: int = 8


# Half the taps leave registers for twice the programs, which read everything twice.
WEIGHT_SPACES = {
    channels_last: Space(
        f"depthwise_conv2d_backward_weight {'nhwc' if channels_last else 'nchw'}",
        WeightSettings(),
        {"taps": (5,), "programs": (4, 16), **others},
    )
    for channels_last, others in OTHER_TILES.items()
}


@triton.jit
def first_tap(
    phase,
    pad,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    UNIT: tl.constexpr,
    INVERSE: tl.constexpr,
    TRANSPOSED: tl.constexpr,
):
    """For the first output of a phase: where it reads its first tap, how many taps, which first."""
    if TRANSPOSED:
        # Tap k reaches where k DILATION = phase + pad, modulo STRIDE.
        common: tl.constexpr = DILATION // UNIT
        step: tl.constexpr = STRIDE // common
        reached = phase + pad
        least = reached // common % step * INVERSE % step
        taps = tl.where(reached % common == 0, (KERNEL - least + step - 1) // step, 0)
        most = least + (taps - 1) * step
        return (reached - most * DILATION) // STRIDE, taps, most
    else:
        return phase * STRIDE - pad, phase * 0 + KERNEL, phase * 0


@triton.jit
def add_taps(
    sums,
    source,
    row,
    filters,
    has_last,
    line,
    source_height,
    reads,
    filter_line,
    exists,
    TAPS: tl.constexpr,
    GUARDED: tl.constexpr,
    SHIFT: tl.constexpr,
    UNIT: tl.constexpr,
    ROWS: tl.constexpr,
):
    """sums, one tile a row, and TAPS taps of a column of the filter, the first of them read at row.

    Row r of the source, which is line numbers long, meets tap r - i SHIFT in row i of the output.
    """
    taps = ()
    for r in tl.static_range((ROWS - 1) * SHIFT + TAPS):
        if r < TAPS:
            filter_row = r * filter_line
            if GUARDED and r == TAPS - 1:
                filter_row = tl.where(has_last, filter_row, 0)
            taps = taps + (load(filters + filter_row, exists),)
        at = row + r * UNIT
        in_image = at + tl.zeros_like(reads).to(tl.int32)
        in_image = (in_image >= 0) & (in_image < source_height)
        x = load(source + at.to(tl.int64) * line, reads & in_image)
        for i in tl.static_range(ROWS):
            if r >= i * SHIFT and r - i * SHIFT < TAPS:
                sum = sums[i]
                tap = tl.broadcast_to(taps[r - i * SHIFT], x.shape)
                if GUARDED and r - i * SHIFT == TAPS - 1:
                    if has_last:
                        sum = tl.fma(x, tap, sum)
                else:
                    sum = tl.fma(x, tap, sum)
                sums = sums[:i] + (sum,) + sums[i + 1 :]
    return sums


@triton.jit
def place_of(
    item,
    row_phases,
    row_blocks,
    column_blocks,
    PHASES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The image of an item of a slab, and its first row and its columns of grad_output."""
    column = item % column_blocks * COLUMNS + tl.arange(0, COLUMNS)[:, None]
    rest = item // column_blocks
    first = rest % row_blocks * ROWS * PHASES + rest // row_blocks % row_phases
    return (rest // row_blocks // row_phases).to(tl.int64), first, column


@dataclass(frozen=True)
class Axis:
    """How the outputs along one axis reach their source, in the words of the head of this file."""

    kernel: int
    stride: int
    dilation: int
    phases: int
    advance: int
    unit: int
    taps: int
    step: int
    inverse: int

    @classmethod
    def of(
        cls, transposed: bool, reads: int, kernel: int, stride: int, dilation: int, rows: bool
    ) -> "Axis":
        """Of a filter over `reads` pixels, padding included, of which only rows are shared."""
        stride, dilation = min(stride, reads), dilation if kernel > 1 else 1  # the same outputs
        unit, step = dilation // math.gcd(stride, dilation), stride // math.gcd(stride, dilation)
        shared = unit if rows else 1
        if not transposed:
            reach = (shared, stride * shared, dilation, kernel, 1, 0)
        else:
            reach = (stride * shared, shared, unit, cdiv(kernel, step), -step, pow(unit, -1, step))
        return cls(kernel, stride, dilation, *reach)

    def constants(self, suffix: str) -> dict[str, int]:
        return {f"{name.upper()}_{suffix}": value for name, value in vars(self).items()}


def axes_of(transposed: bool, padded: Tensor, weight: Tensor, window: Window) -> tuple[Axis, Axis]:
    """Of rows and of columns; padded is what the padding is around."""
    stride, padding, dilation = window
    reads = [n + padding[i] + padding[i + 2] for i, n in enumerate(padded.shape[2:])]
    rows, columns = (
        Axis.of(transposed, reads[i], weight.shape[2 + i], stride[i], dilation[i], i == 0)
        for i in range(2)
    )
    return rows, columns


def tile(
    settings: TileSettings, channels: int, columns: int, channels_last: bool, itemsize: int
) -> tuple[int, int, int]:
    """Columns, channels and warps of a tile, the innermost of memory first."""
    if channels_last:
        of_channels = block_of(channels, settings.channel_bytes // itemsize)
        of_columns = block_of(columns, settings.tile_bytes // itemsize // of_channels)
        warps = of_columns * of_channels * itemsize // 512
        # A tap's channels are read by every thread itself only where they are fewer than threads.
        return of_columns, of_channels, max(warps, of_channels // 16, 1)
    of_columns = block_of(columns, settings.plane_tile)
    of_channels = block_of(channels, settings.plane_tile // of_columns)
    return of_columns, of_channels, max(of_columns * of_channels // 128, 1)


def settings_of(
    space: Space[S],
    input: Tensor,
    sizes: Sequence[int],
    weight: Tensor,
    window: Window,
    **kind: Any,
) -> S:
    """The settings for an output of those sizes, (N, C, H, W)."""
    kind |= {"kernel": weight.shape[2:], "stride": window[0], "dilation": window[2]}
    return settings_for(space, input, sizes, **kind)


def rows_of(size: int, axis: Axis, taps: int, choice: Sequence[int]) -> int:
    """Rows of a tile that takes so many taps of a column at a time: those of choice that fit and
    leave the fewest over; one where rows share nothing.
    """
    shift = axis.advance // axis.unit
    if shift >= axis.taps:
        return 1
    fits = [min(n, size) for n in choice if (n - 1) * shift + taps <= MOST_SOURCE_ROWS]
    return min(fits or choice[-1:], key=lambda rows: cdiv(size, rows) * rows)


def is_packed(weight: Tensor) -> bool:
    """Whether weight is as fastconv.ops.pack_depthwise_weight leaves it: (kh, kw, channels)."""
    return not weight.is_contiguous() and weight.permute(2, 3, 1, 0).is_contiguous()


def check_grad_output(
    op: str, grad_output: Tensor, input: Tensor, weight: Tensor, window: Window
) -> None:
    """Raises RuntimeError unless grad_output is like the output of the forward pass."""
    check_like_input(op, input, grad_output=grad_output, weight=weight)
    channels = input.shape[1]
    if weight.dim() != 4 or weight.shape[1] != 1 or channels == 0 or weight.shape[0] % channels:
        raise RuntimeError(
            f"{op}: expected weight of shape ({channels} * m, 1, kh, kw) for input "
            f"{tuple(input.shape)}, got {tuple(weight.shape)}"
        )
    sizes = output_sizes(op, input.shape[2:], weight.shape[2:], *window)
    check_shape(op, "grad_output", grad_output, (input.shape[0], weight.shape[0], *sizes))
