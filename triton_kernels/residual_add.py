"""residual_add: activation(input + residual), with the zero-padded shortcut.

Three passes over memory and nothing else: 16 bytes an access, a few of them in flight in each
thread. The backward pass is activation_backward's; with the mask of `residual_add_with_mask` it
reads a bit an element in place of a number (Chen et al., "Training deep nets with sublinear memory
cost", keep as little).
"""

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from fastconv import reference
from fastconv.ops.residual_add import fake, fake_with_mask
from fastconv.triton_kernels._kernel import (
    block_of,
    cdiv,
    dense,
    is_channels_last,
    kernel,
    wrap_triton,
)
from fastconv.triton_kernels._language import activate, load, passes, store
from fastconv.triton_kernels._settings import Space
from fastconv.triton_kernels._tuned import settings_for


@dataclass(frozen=True)
class Settings:
    """Four accesses of 16 bytes a thread from each tensor: of 2048 threads a processor that is
    256 KiB on their way, where bandwidth times latency asks for 32 KiB (3.35 TB/s, 600 ns, 132
    processors). No GPU was at hand to measure them.
    """

    warps: int = 4
    accesses: int = 4  # a thread from each tensor

    def block(self, itemsize: int) -> int:
        """Elements of a program: no more than a mask comes in."""
        return min(self.warps * 32 * self.accesses * 16 // itemsize, reference.MASK_BLOCK)


# Half of them would still be four times what the latency asks for; more start fewer programs.
OTHERS = {"accesses": (2, 8), "warps": (2, 8)}
SPACE = Space("residual_add", Settings(), OTHERS)
TILE = 2048  # elements of a tile of the shortcut: 16 a thread


@triton.jit
def add_block(input, residual, output, bits, group, lane, mask, ACTIVATION: tl.constexpr):
    """A block of groups of 8 elements, and the byte that says where each lets a gradient pass."""
    index = group[:, None] * 8 + lane[None, :]
    z = load(input + index, mask) + load(residual + index, mask)
    y = activate(z, ACTIVATION).to(output.dtype.element_ty)
    tl.store(output + index, y, mask=mask)
    if bits is not None:
        # Of the rounded output, which is what the backward pass would read.
        passed = passes(y.to(tl.float32), ACTIVATION).to(tl.int32) << lane[None, :]
        tl.store(bits + group, tl.sum(passed, axis=1).to(tl.uint8))


@triton.jit
def same_size_kernel(
    input, residual, output, bits, elements, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr
):
    first = tl.program_id(0).to(tl.int64) * BLOCK
    group = tl.arange(0, BLOCK // 8)
    lane = tl.arange(0, 8)
    input += first
    residual += first
    output += first
    if bits is not None:
        bits += first // 8
    # Only the last block has a mask: one that may end anywhere makes accesses of one number.
    if first + BLOCK <= elements:
        add_block(input, residual, output, bits, group, lane, None, ACTIVATION)
    else:
        mask = group[:, None] * 8 + lane[None, :] < elements - first
        add_block(input, residual, output, bits, group, lane, mask, ACTIVATION)


@triton.jit
def shortcut_kernel(
    input,
    residual,
    output,
    rows,
    channels,
    height,
    width,
    residual_channels,
    residual_height,
    residual_width,
    stride,
    ACTIVATION: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ROWS: tl.constexpr,
    INNER: tl.constexpr,
):
    """rows x inner elements: pixels x channels of channels_last tensors, else lines x columns."""
    size = channels if CHANNELS_LAST else width
    blocks = tl.cdiv(size, INNER)
    program = tl.program_id(0)
    row = (program // blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inner = program % blocks * INNER + tl.arange(0, INNER)
    if CHANNELS_LAST:
        h = row // width % height * stride
        w = row % width * stride
        image = row // width // height
        first = ((image * residual_height + h) * residual_width + w) * residual_channels
        column = inner
        has = (row < rows)[:, None] & (inner < residual_channels)[None, :]
    else:
        h = row % height * stride
        channel = row // height % channels
        image = row // height // channels
        first = ((image * residual_channels + channel) * residual_height + h) * residual_width
        column = inner * stride
        has = ((row < rows) & (channel < residual_channels))[:, None] & (inner < width)[None, :]
    mask = (row < rows)[:, None] & (inner < size)[None, :]
    index = row[:, None] * size + inner[None, :]
    z = load(input + index, mask) + load(residual + first[:, None] + column[None, :], has)
    store(output + index, activate(z, ACTIVATION), mask)


@kernel
def residual_add(input: Tensor, residual: Tensor, activation: str | None = None) -> Tensor:
    output = fake(input, residual, activation)
    if input.shape == residual.shape:
        _add(input, residual, output, None, activation)
    else:
        _add_shortcut(input, residual, output, activation)
    return output


@kernel
def residual_add_with_mask(
    input: Tensor, residual: Tensor, activation: str
) -> tuple[Tensor, Tensor]:
    output, bits = fake_with_mask(input, residual, activation)
    _add(input, residual, output, bits, activation)
    return output, bits


def _add(
    input: Tensor, residual: Tensor, output: Tensor, bits: Tensor | None, activation: str | None
) -> None:
    elements = output.numel()
    if elements == 0:
        return
    channels_last = is_channels_last(input)
    settings = settings_for(SPACE, input, (elements,), mask=bits is not None)
    block = settings.block(input.element_size())
    size = elements if bits is None else 8 * bits.numel()
    wrap_triton(same_size_kernel, input.device)[cdiv(size, block),](
        dense(input, channels_last),
        dense(residual, channels_last),
        output,
        bits,
        elements,
        ACTIVATION=activation,
        BLOCK=block,
        num_warps=settings.warps,
    )


def _add_shortcut(input: Tensor, residual: Tensor, output: Tensor, activation: str | None) -> None:
    if output.numel() == 0:
        return
    channels_last = is_channels_last(input)
    _, channels, height, width = input.shape
    size = channels if channels_last else width
    inner = block_of(size, TILE)
    rows = output.numel() // size
    grid = (cdiv(rows, TILE // inner) * cdiv(size, inner),)
    wrap_triton(shortcut_kernel, input.device)[grid](
        dense(input, channels_last),
        dense(residual, channels_last),
        output,
        rows,
        channels,
        height,
        width,
        *residual.shape[1:],
        reference.shortcut_stride(residual.shape[2:], input.shape[2:]),
        ACTIVATION=activation,
        CHANNELS_LAST=channels_last,
        ROWS=TILE // inner,
        INNER=inner,
        num_warps=4,
    )
