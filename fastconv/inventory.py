"""The networks of fastconv.models: what each costs, and how much of it our kernels do by swap_."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from fastconv.cost import cost
from fastconv.models import BUILDERS, build
from fastconv.optimize import swap_
from fastconv.progress import Progress, silent


@dataclass
class Entry:
    """A network at its own input size; share is that of its multiplications on our kernels,
    once swapped: optimize takes dense convolutions and the classifier besides."""

    name: str
    input_shape: tuple[int, ...]
    parameters: int
    multiplications: int
    share: float


def inventory(names: Iterable[str] = BUILDERS, progress: Progress = silent) -> list[Entry]:
    """An entry for each name, counted on the meta device after swap_: no weight is made."""
    names = list(names)
    entries = []
    for index, name in enumerate(names):
        progress(name, index / len(names))
        with torch.device("meta"):
            model = swap_(build(name))
        report = cost(model, (1, *model.input_size))
        ours = sum(n for op, n in report.operations.items() if op.startswith("fastconv."))
        entries.append(
            Entry(
                name=name,
                input_shape=tuple(report.input_shape),
                parameters=report.parameters,
                multiplications=report.multiplications,
                share=ours / report.multiplications,
            )
        )
    return entries
