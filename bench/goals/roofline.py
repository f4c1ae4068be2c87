"""The limits of this machine, each measured by its probe."""

import torch

from bench.goals.timing import in_turn
from fastconv import probe

# Bytes of a walk. With two cores of 1 MiB L2 and 32 MiB L3 each falls into the level of its name.
LEVELS = {"L2 read": 1 << 20, "L3 read": 16 << 20, "memory read": 256 << 20}
COPY = 256 << 20


def roofline(seconds: float) -> dict[str, float]:
    """GFLOP/s and GB/s that all threads reach together in the best round.

    Other work on the machine only lowers a rate, and what is held against it would pass the limit.
    """
    probes = {
        "FMA float32": probe.multiply_add(),
        "FMA float32, half with loads": probe.multiply_add_loading(),
        "FMA bfloat16": probe.multiply_add(dtype=torch.bfloat16),
        **{name: probe.read(size) for name, size in LEVELS.items()},
        "copy": probe.copy(COPY),
        "non-temporal copy": probe.stream_copy(COPY),
    }
    times = in_turn(seconds, **{name: p.run for name, p in probes.items()})
    return {name: probes[name].work / min(taken) / 1e9 for name, taken in times.items()}
