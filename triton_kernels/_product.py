"""What the products of matrices share: tiles, precision, and the units that sizes are given in."""

import math
from dataclasses import dataclass

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

# Settings. No GPU was at hand to measure them. A tile of 128 x 128 sums is 64 registers of 8 warps,
# and in 16 bits each of its numbers from memory meets 128 of the other side: 64 multiplications a
# byte, where an H100 does 30 a byte of L2 bandwidth (800 TFLOP/s, 5.5 TB/s, two FLOP each) at most.
PIXELS = 128
OUTPUTS = 128
CHANNELS = 64  # a step: 128 bytes of a pixel in 16 bits, one line of the cache
# Without tf32 a product in float32 runs on the CUDA cores and holds its operands in registers too.
FLOAT32 = 64
FLOAT32_CHANNELS = 16
LEAST = 16  # the smallest side of a product on tensor cores


@dataclass(frozen=True)
class Tile:
    """Pixels x outputs of a program, the channels of a step, and the warps that do it."""

    pixels: int
    outputs: int
    channels: int
    warps: int


def power(size: int, most: int) -> int:
    """The power of two that holds size numbers, from LEAST to most."""
    return max(LEAST, min(most, triton.next_power_of_2(max(size, 1))))


def tile_of(pixels: int, channels: int, outputs: int, input: Tensor) -> Tile:
    """The tile for a product of so many pixels, channels and outputs."""
    wide = input.dtype == torch.float32
    side = FLOAT32 if wide else PIXELS
    across = power(outputs, FLOAT32 if wide else OUTPUTS)
    step = power(channels, FLOAT32_CHANNELS if wide else CHANNELS)
    down = side
    # Where not every processor would have one, smaller tiles.
    while down > LEAST and cdiv(pixels, down) * cdiv(outputs, across) < processors(input.device):
        down //= 2
    return Tile(down, across, step, 8 if down * across > 64 * 128 else 4)


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
