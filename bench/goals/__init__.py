"""The goals set for the CPU kernels, and how far they are reached on this machine.

`make bench-cpu` runs every row in a process of its own and prints the table; each result is checked
against torch before it is timed, and every ratio is the median over rounds taken in turn.
"""

import torch

from bench.goals import depthwise, elementwise, memory, networks, overhead, pointwise, training
from bench.goals.figures import Figure, Row

ROWS: list[Row] = [
    *networks.ROWS,
    *pointwise.ROWS,
    *depthwise.ROWS,
    *elementwise.ROWS,
    *training.ROWS,
    *overhead.ROWS,
    *memory.ROWS,
]


def measure(name: str, seconds: float) -> list[Figure]:
    """The figures of the row of that name; a comparison in it lasts so many seconds."""
    row = next(row for row in ROWS if row.name == name)
    with torch.no_grad():
        return row.measure(seconds)
