"""What the stages of a profile found, in stretches between marks, and the same by step."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from torch import nn

from fastconv.peers.onednn import Execution
from fastconv.profiling.align import Step, assign, steps_of
from fastconv.profiling.figures import Figures
from fastconv.profiling.steps import Clock

Stretches = Sequence[tuple[str, Any]]  # the owner of each, and what was found there


@dataclass
class Evidence:
    """What the stages found: of torch by stretches of its modules, of fastconv by its own steps."""

    model: nn.Module
    network: nn.Module | None = None
    torch: list[tuple[str, Figures]] = field(default_factory=list)
    fastconv: list[tuple[str, Figures]] = field(default_factory=list)
    clocks: dict[str, Clock] = field(default_factory=dict)
    logs: dict[str, list[tuple[str, list[Execution]]]] = field(default_factory=dict)
    counters: dict[str, list[tuple[str, list[dict[str, float]]]]] = field(default_factory=dict)

    def steps(self) -> list[Step]:
        if self.network is None:
            return []
        return steps_of(self.network, self.model, [owner for owner, _ in self.fastconv])

    def by_step(self, side: str, stretches: Stretches, steps: list[Step]) -> dict[int, list[Any]]:
        """What was found in the stretches of each step, those before the first left out."""
        owners = [owner for owner, _ in stretches]
        if side == "torch":
            numbers = assign(owners, steps)
        else:
            index = {step.key: number for number, step in enumerate(steps)}
            numbers = [index.get(owner) for owner in owners]
        found: dict[int, list[Any]] = defaultdict(list)
        for number, (_, what) in zip(numbers, stretches, strict=True):
            if number is not None:
                found[number].append(what)
        return found

    def columns(self, side: str) -> list[tuple[str, tuple[float, ...]]]:
        """The owner of each stretch and its seconds in every call; empty where none was timed."""
        clock = self.clocks.get(side)
        if clock is None or not clock.stretches:
            return []
        return list(zip(clock.owners, zip(*clock.stretches, strict=True), strict=True))

    def times(self, side: str, steps: list[Step]) -> dict[int, float]:
        """The median over calls of the seconds of each step."""
        found = self.by_step(side, self.columns(side), steps)
        return {number: median_sum(columns) for number, columns in found.items()}

    def own_times(self, side: str) -> dict[str, float]:
        """The median over calls of the seconds of each owner's own stretches."""
        found = defaultdict(list)
        for owner, column in self.columns(side):
            found[owner].append(column)
        return {owner: median_sum(columns) for owner, columns in found.items()}

    def executions(self, side: str, steps: list[Step]) -> dict[int, list[Execution]] | None:
        if side not in self.logs:
            return None
        found = self.by_step(side, self.logs[side], steps)
        return {
            number: [run for runs in groups for run in runs] for number, groups in found.items()
        }


def median_sum(columns: Sequence[Sequence[float]]) -> float:
    """The median over calls of the sum of several stretches."""
    return median(map(sum, zip(*columns, strict=True)))
