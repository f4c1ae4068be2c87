"""A measured number beside the bound that was set for it, and the row of the table it stands in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import geometric_mean
from typing import NamedTuple


@dataclass(frozen=True)
class Figure:
    """`value` is held against `goal`: at least that, or at most where `at_most`; None is no goal.

    parts: the numbers behind it, one a shape. The value is then the worst of them.
    rivals: how many times as fast as plain torch each rival was.
    shares: what part of the machine's peak each rival reached.
    """

    what: str
    value: float
    goal: float | None
    unit: str = "x"
    at_most: bool = False
    parts: Mapping[str, float] = field(default_factory=dict)
    rivals: Mapping[str, float] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        if self.goal is None:
            return True
        return self.value <= self.goal if self.at_most else self.value >= self.goal

    def __str__(self) -> str:
        text = f"{self.what} {self.value:.3g}"
        if len(self.parts) > 1:
            text += f" (mean {geometric_mean(self.parts.values()):.3g})"
        text = f"{text}{'' if self.unit == 'x' else ' '}{self.unit}"
        if self.shares:
            text += f" (of peak: {', '.join(f'{k} {v:.2f}' for k, v in self.shares.items())})"
        return text


def worst(
    what: str, parts: Mapping[str, float], goal: float, unit: str = "x", at_most: bool = False
) -> Figure:
    """The figure of several shapes: the goal is one for each of them."""
    value = max(parts.values()) if at_most else min(parts.values())
    return Figure(what, value, goal, unit, at_most, parts)


class Row(NamedTuple):
    """One item of the table; `measure` takes the seconds that a comparison may last.

    whole_network: measured as its users run it. Of a single layer the allocator keeps the memory,
    as it has it in a network's course (bench.processes.KEEPING_MEMORY).
    """

    name: str
    item: str
    goal: str
    measure: Callable[[float], list[Figure]]
    whole_network: bool = False
