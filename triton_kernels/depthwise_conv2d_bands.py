"""depthwise_conv2d by large filters in 16 bits: products of matrices, on the tensor cores.

A row of a filter, written once for each of some neighbouring outputs, each time a source further
on, is a matrix of sources x outputs: a band, zero elsewhere. So a row of the source meets each row
of the filter in one product, and is read once for all rows of the output that it reaches. The other
side of a product are the items of a program: strips of ROWS x TARGETS outputs of whatever image,
which all walk down theirs in step.

7x7 takes 7 products of 16 x 16 x 8 for 128 outputs. On sm_90 in bfloat16 that is 38 instructions an
output (channels_last; contiguous 27), some ten of them for what is not finite; by fma 107 (138).

A product with the zeros of a band spoils what stands beside an infinite or NaN number: a program
that finds a NaN among its sums computes its items anew, by fma.
"""

import math
from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from fastconv.triton_kernels._depthwise import is_packed
from fastconv.triton_kernels._depthwise_padding import correlate_tile
from fastconv.triton_kernels._depthwise_plain import Correlation, rows_of
from fastconv.triton_kernels._kernel import block_of, cdiv, dense, wrap_triton
from fastconv.triton_kernels._language import activate, load, multiply_add, store
from fastconv.triton_kernels._product import widen
from fastconv.triton_kernels._settings import Space
from fastconv.triton_kernels._tuned import settings_for

LEAST_TAPS = 49  # 7x7; smaller filters are bound by memory as they are
# Sources and outputs of a product: the least that tensor cores multiply in 16 bits.
SOURCES, TARGETS = 16, 8


@dataclass(frozen=True)
class Settings:
    """By what Triton 3.6 makes of them for sm_90, for no GPU was at hand: 7x7 takes 128 registers
    a thread, of which a processor has enough for 16 warps.
    """

    rows: int = 7  # the most of a strip, down to half as many; 8 keep 18 registers in memory
    items: int = 32  # the rows of a product
    channels: int = 16  # 32 bytes of a channels_last pixel, a sector of the cache
    warps: int = 16  # each multiplies a channel of its own
    taps: int = 7  # rows of a filter at a time, held as bands in registers
    ahead: int = 0  # rows of the source on their way while one is multiplied; 8 registers each


# Programs of planes gain nothing by many channels, and small ones wait less for each other.
SPACES = {
    True: Space(
        "depthwise_conv2d bands nhwc",
        Settings(),
        {"items": (16, 64), "warps": (8,), "channels": (8, 32), "rows": (8, 4), "ahead": (1, 2)},
    ),
    False: Space(
        "depthwise_conv2d bands nchw",
        Settings(channels=8, warps=8),
        {"items": (16, 64), "warps": (4,), "channels": (4, 16), "rows": (8, 4), "ahead": (1, 2)},
    ),
}


@triton.jit
def band(
    filters,
    tap_row,
    filter_tap,
    exists,
    first,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    FLIPPED: tl.constexpr,
    SOURCES: tl.constexpr,
    TARGETS: tl.constexpr,
):
    """A row of each filter, from the sources beginning with first of its own."""
    source = tl.arange(0, SOURCES)[None, :, None] + first
    reach = source - tl.arange(0, TARGETS)[None, None, :] * STRIDE
    column = reach // DILATION
    inside = (reach >= 0) & (column < KERNEL_W) & (reach % DILATION == 0)
    inside = inside & (tap_row < KERNEL_H)
    if FLIPPED:
        tap_row, column = KERNEL_H - 1 - tap_row, KERNEL_W - 1 - column
    at = filters + (tap_row * KERNEL_W + column) * filter_tap
    return tl.load(at, mask=inside & exists, other=0.0)


@triton.jit(do_not_specialize=("source_height", "height", "items", "row_blocks", "column_blocks"))
def bands_kernel(
    source,
    weight,
    bias,
    output,
    source_height,
    source_groups,
    height,
    groups,
    vectors,
    items,
    row_blocks,
    column_blocks,
    VECTOR: tl.constexpr,
    GROUP: tl.constexpr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    PAD_TOP: tl.constexpr,
    PAD_LEFT: tl.constexpr,
    BEFORE: tl.constexpr,
    LEAD: tl.constexpr,
    FLIPPED: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    ACTIVATION: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PACKED: tl.constexpr,
    WIDEN: tl.constexpr,
    TAPS: tl.constexpr,
    PARTS: tl.constexpr,
    SOURCES: tl.constexpr,
    AHEAD: tl.constexpr,
    ITEMS: tl.constexpr,
    ROWS: tl.constexpr,
    TARGETS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Tiles are CHANNELS x ITEMS x columns; in memory the columns are in groups.

    The first source of an item is BEFORE groups before its first output's, and LEAD numbers before
    the first that it reads.
    """
    channels, source_channels = vectors * VECTOR, vectors * VECTOR // MULTIPLIER
    source_width, width = source_groups * GROUP, groups * GROUP
    SOURCE_ROWS: tl.constexpr = (ROWS - 1) * STRIDE_H + (TAPS - 1) * DILATION_H + 1
    if CHANNELS_LAST:
        source_pixel, source_plane = source_channels, 1
        pixel, plane = channels, 1
    else:
        source_pixel, source_plane = 1, source_height.to(tl.int64) * source_width
        pixel, plane = 1, height.to(tl.int64) * width
    filter_tap, filter_channel = (channels, 1) if PACKED else (1, KERNEL_H * KERNEL_W)

    channel_blocks = tl.cdiv(channels, CHANNELS)
    of_channel = tl.program_id(0) % channel_blocks * CHANNELS + tl.arange(0, CHANNELS)
    channel = of_channel[:, None, None]
    exists = channel < channels
    first_item = tl.program_id(0) // channel_blocks * ITEMS
    item = first_item + tl.arange(0, ITEMS)[None, :, None]
    column_block = item % column_blocks
    first = item // column_blocks % row_blocks * ROWS
    image = (item // column_blocks // row_blocks).to(tl.int64)
    has = exists & (item < items)

    first_row = first * STRIDE_H - PAD_TOP
    source_group = column_block * (TARGETS * STRIDE_W // GROUP) - BEFORE
    at = source_group.to(tl.int64) * GROUP + first_row.to(tl.int64) * source_width
    images = source + (image * source_channels * source_height * source_width + at * source_pixel)
    images += channel // MULTIPLIER * source_plane
    group = tl.arange(0, SOURCES // GROUP)[None, None, :]
    lane = tl.arange(0, GROUP)[None, None, None, :]
    filters = weight + channel * filter_channel
    shape = (KERNEL_H, KERNEL_W, STRIDE_W, DILATION_W, FLIPPED)

    sums = ()
    for _ in tl.static_range(ROWS):
        sums = sums + (tl.zeros((CHANNELS, ITEMS, TARGETS), tl.float32),)
    for step in range((KERNEL_H + TAPS - 1) // TAPS * PARTS):
        first_tap, part = step // PARTS * TAPS, step % PARTS
        bands = ()
        for h in tl.static_range(TAPS):
            taps = (filters, first_tap + h, filter_tap, exists, part * SOURCES - LEAD)
            bands = bands + (band(*taps, *shape, SOURCES, TARGETS),)
        of_part = group + part * (SOURCES // GROUP)
        inside = (source_group + of_part >= 0) & (source_group + of_part < source_groups)
        pixels = (images + of_part * (GROUP * source_pixel))[:, :, :, None] + lane * source_pixel
        rows = ()
        for r in tl.static_range(SOURCE_ROWS + AHEAD):
            if r < SOURCE_ROWS:
                row = first_row + (first_tap * DILATION_H + r)
                reads = (inside & has & (row >= 0) & (row < source_height))[:, :, :, None]
                line = (source_width.to(tl.int64) * (first_tap * DILATION_H + r)) * source_pixel
                x = tl.load(pixels + line, mask=reads, other=0.0)
                rows = rows + (tl.reshape(x, [CHANNELS, ITEMS, SOURCES]),)
            if r >= AHEAD:
                for i in tl.static_range(ROWS):
                    for h in tl.static_range(TAPS):
                        if r - AHEAD == i * STRIDE_H + h * DILATION_H:
                            sum = multiply_add(rows[r - AHEAD], bands[h], sums[i], "ieee", WIDEN)
                            sums = sums[:i] + (sum,) + sums[i + 1 :]

    offset = tl.zeros((CHANNELS, 1, 1), tl.float32)
    if bias is not None:
        offset = load(bias + channel, exists)
    out_group = column_block * (TARGETS // GROUP) + tl.arange(0, TARGETS // GROUP)[None, None, :]
    writes = has & (out_group < groups)
    at = image * channels * height * width + channel * plane
    at += (first.to(tl.int64) * width + out_group * GROUP) * pixel
    out = output + at[:, :, :, None] + lane * pixel
    all_sums = tl.zeros((CHANNELS, ITEMS, TARGETS), tl.float32)
    for i in tl.static_range(ROWS):
        all_sums += sums[i]
        z = activate(sums[i] + offset, ACTIVATION)
        z = tl.reshape(z, [CHANNELS, ITEMS, TARGETS // GROUP, GROUP])
        in_image = (writes & (first + i < height))[:, :, :, None]
        store(out + width.to(tl.int64) * i * pixel, z, in_image)

    total = tl.sum(tl.sum(tl.sum(all_sums, axis=2), axis=1), axis=0)
    if total != total:
        tl.debug_barrier()  # the threads share out what they store in another way
        for n in range(first_item, tl.minimum(first_item + ITEMS, items)):
            of_image = (n // column_blocks // row_blocks).to(tl.int64)
            correlate_tile(
                source + of_image * source_channels * source_height * source_width,
                *(weight, bias, output + of_image * channels * height * width),
                *(of_channel, channels),
                *(n // column_blocks % row_blocks * ROWS, n % column_blocks * TARGETS),
                *(source_height, source_width, height, width),
                *(KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, DILATION_H, DILATION_W),
                *(PAD_TOP, PAD_LEFT, FLIPPED, MULTIPLIER, ACTIVATION, CHANNELS_LAST, PACKED),
                *(ROWS, TARGETS),
            )


def correlate_bands(
    source: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    output: Tensor,
    given: Correlation,
    activation: str | None,
    channels_last: bool,
) -> bool:
    """The correlation by a large filter in 16 bits; whether it is one."""
    batch, channels, height, width = output.shape
    if given.kernel_h * given.kernel_w < LEAST_TAPS or source.element_size() > 2:
        return False
    reach = (TARGETS - 1) * given.stride_w + given.reach
    widest = 1 if channels_last else math.gcd(source.shape[3], width, TARGETS)
    groups = [n for n in (8, 4, 2, 1) if widest % n == 0]
    group = min(groups, key=lambda n: cdiv(-given.pad_left % n + reach, SOURCES))
    lead = -given.pad_left % group
    settings = settings_for(
        SPACES[channels_last],
        source,
        output.shape,
        kernel=weight.shape[2:],
        stride=given.stride_w,
        dilation=given.dilation_w,
    )
    rows = rows_of(height, settings.rows)
    of_channels = block_of(channels, settings.channels)
    row_blocks, column_blocks = cdiv(height, rows), cdiv(width, TARGETS)
    items = batch * row_blocks * column_blocks
    vector = math.gcd(channels, 16)
    packed = is_packed(weight)
    programs = cdiv(channels, of_channels) * cdiv(items, settings.items)
    wrap_triton(bands_kernel, output.device)[programs,](
        dense(source, channels_last),
        weight if packed else weight.contiguous(),
        bias,
        output,
        source.shape[2],
        source.shape[3] // group,
        height,
        width // group,
        channels // vector,
        items,
        row_blocks,
        column_blocks,
        VECTOR=vector,
        GROUP=group,
        **given.constants(),
        BEFORE=(given.pad_left + lead) // group,
        LEAD=lead,
        ACTIVATION=activation,
        CHANNELS_LAST=channels_last,
        PACKED=packed,
        WIDEN=widen(source.dtype),
        TAPS=cdiv(given.kernel_h, cdiv(given.kernel_h, settings.taps)),
        PARTS=cdiv(lead + reach, SOURCES),
        SOURCES=SOURCES,
        AHEAD=settings.ahead,
        ITEMS=settings.items,
        ROWS=rows,
        TARGETS=TARGETS,
        CHANNELS=of_channels,
        num_warps=min(settings.warps, of_channels),
        num_stages=1,
    )
    return True
