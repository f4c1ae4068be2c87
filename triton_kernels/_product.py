"""What the products of matrices share: tiles, precision, and the units that sizes are given in."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from fastconv.triton_kernels._kernel import (
    HOPPER,
    INTERPRETED,
    architecture,
    cdiv,
    is_traced,
    processors,
)
from fastconv.triton_kernels._settings import Space
from fastconv.triton_kernels._tuned import settings_for

LEAST = 16  # the smallest side of a product on tensor cores


def power(size: int, most: int) -> int:
    """The power of two that holds size numbers, from LEAST to most."""
    return max(LEAST, min(most, triton.next_power_of_2(max(size, 1))))


@dataclass(frozen=True)
class Settings:
    """A tile and what does it. No GPU was at hand to measure them.

    A tile of 128 x 128 sums is 64 registers of 8 warps, and in 16 bits each of its numbers from
    memory meets 128 of the other side: 64 multiplications a byte, where an H100 does 30 a byte of
    L2 bandwidth (800 TFLOP/s, 5.5 TB/s, two FLOP each) at most.
    """

    pixels: int = 128
    outputs: int = 128
    channels: int = 64  # a step: 128 bytes of a pixel in 16 bits, one line of the cache
    warps: int = 8  # where a tile has more than 64 x 128 sums; else 4 at most
    stages: int = 3  # steps on their way, Triton's own choice
    # A wider tile of outputs saves nothing, for the weights come from the L1 cache, and leaves more
    # of itself empty: of 144 outputs three tiles of 64 leave 48, two of 128 leave 112.
    panel_outputs: int = 64
    box_stages: int = 4  # 4 x 32 KiB and 32 KiB of results, of a processor's 227 KiB


# By whether numbers are float32: without tf32 their product runs on the CUDA cores and holds its
# operands in registers too. Memory-bound products want more loads on their way, by smaller tiles or
# more stages; matrix-bound ones larger tiles.
SPACES = {
    False: Space(
        "pointwise_conv2d",
        Settings(),
        {
            "pixels": (64, 256),
            "outputs": (64, 256),
            "channels": (32, 128),
            "stages": (2, 4),
            "box_stages": (3, 5),
            "panel_outputs": (32, 128),
            "warps": (4,),
        },
    ),
    True: Space(
        "pointwise_conv2d float32",
        Settings(pixels=64, outputs=64, channels=16),
        {
            "pixels": (32, 128),
            "outputs": (32, 128),
            "channels": (32,),
            "stages": (2, 4),
            "panel_outputs": (32,),
        },
    ),
}


def tile_of(sizes: tuple[int, int, int], input: Tensor, **kind: Any) -> Settings:
    """The settings of a product of so many pixels, channels and outputs, no larger."""
    space = SPACES[input.dtype == torch.float32]
    settings = settings_for(space, input, sizes, precision=precision(input.dtype), **kind)
    pixels, channels, outputs = sizes
    across, down = power(outputs, settings.outputs), settings.pixels
    while down > LEAST and cdiv(pixels, down) * cdiv(outputs, across) < processors(input.device):
        down //= 2  # so that every processor has one
    step = power(channels, settings.channels)
    warps = settings.warps if down * across > 64 * 128 else min(settings.warps, 4)
    return replace(settings, pixels=down, outputs=across, channels=step, warps=warps)


def precision(dtype: torch.dtype) -> str:
    """How float32 numbers are multiplied: tf32 only where torch may."""
    allowed = torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if allowed and dtype == torch.float32 else "ieee"


def widen(dtype: torch.dtype) -> bool:
    """Whether the interpreter runs, which multiplies bfloat16 numbers wrongly."""
    return INTERPRETED and dtype == torch.bfloat16


def common_unit(*sizes: int) -> int:
    """The largest of 8, 4, 2 and 1 that divides all sizes: 16 bytes are 8 numbers of 16 bits."""
    return math.gcd(8, *sizes)


def pixels_of(tensor: Tensor) -> int:
    """Of one image."""
    return tensor.shape[2] * tensor.shape[3]


def matrix(weight: Tensor) -> tuple[Tensor, bool]:
    """A weight (O, C, 1, 1) as a matrix, and whether its rows are outputs or else channels."""
    rows = weight.flatten(1)
    if rows.is_contiguous():
        return rows, True
    return rows.T.contiguous(), False


def rows_of(tensor: Tensor) -> Tensor:
    """A channels_last tensor as a matrix, a row a pixel."""
    return tensor.permute(0, 2, 3, 1).flatten(0, 2)


def box(matrix: Tensor, rows: int, columns: int) -> TensorDescriptor:
    """The descriptor by which the hardware copies boxes of rows x columns of a matrix."""
    return TensorDescriptor.from_tensor(matrix, [rows, columns])


def has_boxes(*matrices: Tensor) -> bool:
    """Whether the hardware copies boxes of all these: from Hopper on, in units of 16 bytes."""
    # Tracing, torch does not see that a kernel writes through a descriptor, and leaves it out.
    if architecture(matrices[0].device) < HOPPER or is_traced():
        return False
    strides = all(m.stride(0) * m.element_size() % 16 == 0 for m in matrices)
    return strides and all(m.storage_offset() * m.element_size() % 16 == 0 for m in matrices)
