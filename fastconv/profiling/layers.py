"""Puts clocks, counts and logs together: a row for each layer, and the alarms."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from torch import nn

from fastconv.profiling.align import Step, assign, steps_of
from fastconv.profiling.figures import Figures
from fastconv.profiling.onednn import Execution, slow_path
from fastconv.profiling.record import Alarm, Layer, Part, Roofs
from fastconv.profiling.roofline import share_of_copy, share_of_roof
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

    def steps(self) -> list[Step]:
        if self.network is None:
            return []
        return steps_of(self.network, self.model, [owner for owner, _ in self.fastconv])

    def by_step(self, side: str, stretches: Stretches, steps: list[Step]) -> dict[int, list[Any]]:
        """What was found in the stretches of each step, those before the first left out."""
        owners = [owner for owner, _ in stretches]
        index = {step.key: number for number, step in enumerate(steps)}
        own = [index.get(owner) for owner in owners]
        found: dict[int, list[Any]] = defaultdict(list)
        for number, (_, what) in zip(
            assign(owners, steps) if side == "torch" else own, stretches, strict=True
        ):
            if number is not None:
                found[number].append(what)
        return found

    def times(self, side: str, steps: list[Step]) -> dict[int, float]:
        """The median over calls of the seconds of each step."""
        clock = self.clocks.get(side)
        if clock is None or not clock.stretches:
            return {}
        columns = zip(*clock.stretches, strict=True)
        found = self.by_step(side, list(zip(clock.owners, columns, strict=True)), steps)
        return {
            number: median(map(sum, zip(*stretches, strict=True)))
            for number, stretches in found.items()
        }

    def executions(self, side: str, steps: list[Step]) -> dict[int, list[Execution]] | None:
        if side not in self.logs:
            return None
        found = self.by_step(side, self.logs[side], steps)
        return {
            number: [run for runs in groups for run in runs] for number, groups in found.items()
        }


def layers_of(evidence: Evidence, roofs: Roofs | None) -> list[Layer]:
    """A row for each step that moves memory."""
    steps = evidence.steps()
    ours = evidence.by_step("fastconv", evidence.fastconv, steps)
    theirs = evidence.by_step("torch", evidence.torch, steps)
    times = {side: evidence.times(side, steps) for side in ("torch", "fastconv")}
    logs = {side: evidence.executions(side, steps) for side in ("torch", "fastconv")}
    modules = modules_of(evidence, steps)
    rows = []
    for number, step in enumerate(steps):
        figures = merged(ours.get(number, []))
        if not figures.bytes:
            continue
        flop = figures.flop or figures.elements
        parts = {}
        for side, found in (("torch", theirs), ("fastconv", ours)):
            moved = merged(found.get(number, []))
            log = logs[side]
            runs = None if log is None else log.get(number, [])
            seconds = times[side].get(number)
            parts[side] = part_of(moved, flop, seconds, runs, roofs)
        rows.append(
            Layer(
                name=step.name,
                op=op_of(figures),
                input=figures.input,
                output=figures.output,
                layout=figures.layout,
                flop=flop,
                counted=figures.flop > 0,
                backend=backend_of(figures),
                reason=reason_of(figures),
                modules=modules[number],
                **parts,
            )
        )
    return rows


def modules_of(evidence: Evidence, steps: list[Step]) -> dict[int, list[str]]:
    """The calls of torch's modules that each step stands for, those that compute."""
    named = [(owner, (owner, figures)) for owner, figures in evidence.torch]
    found = evidence.by_step("torch", named, steps)
    return defaultdict(
        list,
        {
            number: [owner for owner, figures in calls if figures.bytes and owner]
            for number, calls in found.items()
        },
    )


def merged(parts: Iterable[Figures]) -> Figures:
    whole = Figures()
    for part in parts:
        whole.bytes += part.bytes
        whole.flop += part.flop
        whole.elements += part.elements
        whole.input, whole.layout = whole.input or part.input, whole.layout or part.layout
        whole.output = part.output or whole.output
        whole.ops += part.ops
        whole.served += part.served
    return whole


def part_of(
    figures: Figures,
    flop: int,
    seconds: float | None,
    runs: list[Execution] | None,
    roofs: Roofs | None,
) -> Part:
    part = Part(bytes=figures.bytes, kernels=kernels_of(figures, runs))
    if seconds is not None:
        part.ms = 1e3 * seconds
    if seconds and roofs is not None and figures.bytes:
        part.share_of_roof = share_of_roof(roofs, flop, figures.bytes, seconds)
        part.share_of_copy = share_of_copy(roofs, figures.bytes, seconds)
    if runs is not None:
        changes = [run.ms for run in runs if run.kind == "reorder"]
        part.reorders, part.reorder_ms = len(changes), sum(changes)
    return part


def kernels_of(figures: Figures, runs: list[Execution] | None) -> list[str]:
    """Ours by the names of their variants, oneDNN's by its own, else torch's ops."""
    ours = [row["variant"] for row in figures.served if row["variant"]]
    log = [f"oneDNN {run.implementation}" for run in runs or () if run.kind != "reorder"]
    return list(dict.fromkeys([*ours, *log])) or list(dict.fromkeys(figures.ops))


def op_of(figures: Figures) -> str:
    if figures.served:
        return figures.served[0]["op"]
    return figures.ops[-1].partition(".")[2] if figures.ops else ""


def backend_of(figures: Figures) -> str:
    return ", ".join(dict.fromkeys(row["backend"] for row in figures.served)) or "torch"


def reason_of(figures: Figures) -> str:
    reasons = (row["reason"] for row in figures.served)
    return "; ".join(dict.fromkeys(reasons)) or "torch's own operation"


# Ops that torch runs outside of oneDNN by loops known to be slow (torch 2.13).
SLOW_OPS = {
    "aten.avg_pool3d": "local response normalisation as a scalar pooling over channels, "
    "among passes for square, power and division",
}


def alarms_of(evidence: Evidence) -> list[Alarm]:
    """The slow paths of torch, in its own run and where fastconv leaves a layer to it."""
    alarms = []
    for side, log in evidence.logs.items():
        for step, runs in log:
            for run in runs:
                if why := slow_path(run):
                    alarms.append(
                        Alarm(side, step, f"{run.kind} {run.implementation}", why, run.ms)
                    )
        figures = evidence.torch if side == "torch" else evidence.fastconv
        for step, found in figures:
            alarms += [
                Alarm(side, step, op, why, None) for op, why in SLOW_OPS.items() if op in found.ops
            ]
    names = {step.key: step.name for step in evidence.steps()}
    for alarm in alarms:
        alarm.layer = names.get(alarm.layer, alarm.layer) if alarm.side != "torch" else alarm.layer
    return sorted(alarms, key=lambda alarm: -(alarm.ms or 0))
