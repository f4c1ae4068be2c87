"""The limits of this machine beside its layers (Williams, Waterman, Patterson 2009, "Roofline").

A layer of F FLOP and B bytes takes at least max(F / peak, B / rate): peak is that of multiply-adds
in registers, rate that of the faster of a read and a copy of as many bytes, so that a layer whose
tensors stay in a cache is held against that cache. A copy is by ordinary stores or past the caches,
whichever is faster at that size.
"""

from math import log
from statistics import median

import torch

from fastconv import probe
from fastconv.peers.turns import run
from fastconv.probe import Probe
from fastconv.profiling.record import Roofs

# From what one core keeps nearest to it to what only memory holds; a factor of 4 between.
SIZES = [size << 10 for size in (64, 256, 1024, 4096, 16384, 65536, 262144)]
LEAST_BYTES = 32 << 20  # a call of a probe: a millisecond or so, far longer than waking a thread
ROUNDS, CALLS = 7, 3  # in turn, so that a moment of other work falls on few calls of each probe


def repeated(probe: Probe) -> Probe:
    """As many runs in one call as move LEAST_BYTES."""
    times = max(1, LEAST_BYTES // int(probe.work))

    def all_of_them() -> None:
        for _ in range(times):
            probe.run()

    return Probe(all_of_them, probe.work * times)


def measure_roofs(dtype: torch.dtype) -> Roofs:
    """Peak and rates of all threads together, each the median of calls taken in turn."""
    narrow = dtype if dtype == torch.bfloat16 else torch.float32
    probes = [probe.multiply_add(dtype=narrow)]
    probes += [probe.read(size) for size in SIZES]
    for copy in (probe.copy, probe.stream_copy):
        probes += [repeated(copy(size)) for size in SIZES]
    times: list[list[float]] = [[] for _ in probes]
    for _ in range(ROUNDS):
        for own, limit in zip(times, probes, strict=True):
            own += run(limit.run, CALLS, 1)
    peak, *rates = [limit.work / median(own) for limit, own in zip(probes, times, strict=True)]
    read, *copies = (rates[i : i + len(SIZES)] for i in range(0, len(rates), len(SIZES)))
    return Roofs(peak, SIZES, read, list(map(max, *copies)))


def rate_at(roofs: Roofs, rates: list[float], size: float) -> float:
    """The rate for so many bytes, between two measured sizes on a logarithmic scale."""
    sizes = roofs.sizes
    if size <= sizes[0]:
        return rates[0]
    for low, high, slow, fast in zip(sizes, sizes[1:], rates, rates[1:], strict=False):
        if size <= high:
            return slow + (fast - slow) * log(size / low) / log(high / low)
    return rates[-1]


def bandwidth(roofs: Roofs, size: float) -> float:
    """Bytes a second that so many bytes can be moved at."""
    return max(rate_at(roofs, roofs.read, size), rate_at(roofs, roofs.copy, size))


def least_seconds(roofs: Roofs, flop: float, size: float) -> tuple[float, str]:
    """The least time for so many FLOP and bytes, and what sets it: 'arithmetic' or 'memory'."""
    return max((flop / roofs.flops, "arithmetic"), (size / bandwidth(roofs, size), "memory"))


def share_of_roof(roofs: Roofs, flop: float, size: float, seconds: float) -> float:
    """The least time for so many FLOP and bytes over the seconds taken."""
    return least_seconds(roofs, flop, size)[0] / seconds


def share_of_copy(roofs: Roofs, size: float, seconds: float) -> float:
    """Bytes a second over those of a copy of as many bytes."""
    return size / seconds / rate_at(roofs, roofs.copy, size)
