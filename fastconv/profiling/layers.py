"""A row for each layer, of clocks, counts and logs."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import chain

from fastconv.peers.onednn import Execution
from fastconv.profiling.align import Step
from fastconv.profiling.counters import merged as merged_counters
from fastconv.profiling.evidence import Evidence
from fastconv.profiling.figures import Figures
from fastconv.profiling.record import Layer, Part, Roofs
from fastconv.profiling.roofline import share_of_copy, share_of_roof


def layers_of(evidence: Evidence, roofs: Roofs | None) -> list[Layer]:
    """A row for each step that moves memory."""
    steps = evidence.steps()
    ours = evidence.by_step("fastconv", evidence.fastconv, steps)
    theirs = evidence.by_step("torch", evidence.torch, steps)
    times = {side: evidence.times(side, steps) for side in ("torch", "fastconv")}
    logs = {side: evidence.executions(side, steps) for side in ("torch", "fastconv")}
    counters = {
        side: evidence.by_step(side, stretches, steps)
        for side, stretches in evidence.counters.items()
    }
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
            counted = counters.get(side, {}).get(number, [])
            parts[side].counters = merged_counters(chain.from_iterable(counted))
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
    """What a GPU launched; or ours by their variants, oneDNN's by its own names, torch's ops."""
    launched = [run.implementation for run in runs or () if run.kind == "kernel"]
    if launched:  # on a GPU
        return list(dict.fromkeys(launched))
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
