"""What this processor can do at most, measured by loops of our own: the lines of a roofline.

Each runs on torch's threads in the instruction set in use, and says how much work a call does.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from fastconv import _C

READ_BYTES = 64 << 20  # a call: far longer than it takes to wake a thread
KERNEL_ROUNDS = 100  # of 5 to 30 us


class Probe(NamedTuple):
    """A call and its work: floating point operations, or bytes read and written."""

    run: Callable[[], object]
    work: float


def multiply_add(rounds: int = 50, dtype: torch.dtype = torch.float32) -> Probe:
    """Multiply-adds of float32 or bfloat16 in registers; a round takes about 20 us."""
    narrow = dtype == torch.bfloat16
    work = _C.probe.multiply_add(1, narrow) * rounds
    return Probe(lambda: _C.probe.multiply_add(rounds, narrow), work)


def multiply_add_loading(rounds: int = 50) -> Probe:
    """Of float32, a factor of every second one from the L1 cache: what a matrix product can do."""
    work = _C.probe.multiply_add_loading(1) * rounds
    return Probe(lambda: _C.probe.multiply_add_loading(rounds), work)


def read(size: int) -> Probe:
    """Walks over `size` bytes, which stay in the caches that hold so much."""
    data = torch.ones(size // 4).numpy()
    rounds = max(1, READ_BYTES // size)
    return Probe(lambda: _C.probe.read(data, rounds), size * rounds)


def copy(size: int) -> Probe:
    """`size` bytes in all, half of them read and half of them written by ordinary stores."""
    source, target = _pair(size)
    return Probe(lambda: _C.probe.copy(source, target), size)


def stream_copy(size: int) -> Probe:
    """As copy, by stores past the caches."""
    source, target = _pair(size)
    return Probe(lambda: _C.probe.stream_copy(source, target), size)


def depthwise_conv2d(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int, output: torch.Tensor
) -> Probe:
    """Our own kernel alone on one channels_last float32 image, padded by half a kernel.

    The weight is packed (fastconv.ops.pack_depthwise_weight). A call runs it KERNEL_ROUNDS times,
    and each thread has its share of the image: no call from Python and no handing over between.
    """
    buffers = [t.permute(0, 2, 3, 1).reshape(-1).numpy() for t in (x, output)]
    taps = weight.permute(2, 3, 0, 1).reshape(-1).numpy()
    size, kernel = x.shape[-1], weight.shape[-1]
    if size != x.shape[-2] or buffers[1].ctypes.data != output.data_ptr():
        raise ValueError(f"expected a square channels_last image, got {tuple(x.shape)}")
    source, target = buffers
    work = 2.0 * kernel**2 * output.numel() * KERNEL_ROUNDS
    return Probe(
        lambda: _C.probe.depthwise_conv2d(
            source, taps, bias.numpy(), target, size, kernel, stride, KERNEL_ROUNDS
        ),
        work,
    )


def _pair(size: int) -> tuple:
    return torch.ones(size // 8).numpy(), torch.ones(size // 8).numpy()
