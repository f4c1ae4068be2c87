"""Comparisons of several networks, batches, dtypes and numbers of threads, as one result."""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastconv.compare import Comparison, compare
from fastconv.machine import difference, machine
from fastconv.peers import DEFAULT_PEERS
from fastconv.peers.entrant import Rival
from fastconv.progress import Progress, part, silent

# Between results that can stand side by side; a run on one core is one that was pinned to it.
VARIES = ("date", "threads", "cores")


@dataclass
class Report:
    """complete: whether every comparison that was asked for is there, with all its rounds."""

    machine: dict[str, Any]
    complete: bool = True
    comparisons: list[Comparison] = field(default_factory=list)


def compare_all(
    models: Sequence[str],
    *,
    batches: Sequence[int] = (1,),
    dtypes: Sequence[str] = ("float32",),
    threads: Sequence[int | None] = (None,),
    peers: Sequence[str] = DEFAULT_PEERS,
    seconds: float = 10.0,
    progress: Progress = silent,
    keep: Callable[[Report], None] = lambda report: None,
) -> Report:
    """A comparison for each combination; `seconds` and the errors are those of `compare`.

    keep is told of the report after each comparison. Ctrl-C ends the work and leaves the report
    incomplete; before the first round of the first comparison it raises KeyboardInterrupt.
    """
    settings = list(itertools.product(models, dtypes, threads, batches))
    report = Report(machine(), complete=False)
    for index, (model, dtype, count, batch) in enumerate(settings):
        share = part(progress, index / len(settings), (index + 1) / len(settings))
        name = f"{model}, batch {batch}, {dtype}"

        def say(what: str, done: float, name: str = name, share: Progress = share) -> None:
            share(f"{name}: {what}" if len(settings) > 1 else what, done)

        try:
            comparison = compare(
                model,
                batch=batch,
                dtype=dtype,
                threads=count,
                peers=peers,
                seconds=seconds,
                progress=say,
            )
        except KeyboardInterrupt:
            if not report.comparisons:
                raise
            return report
        report.comparisons.append(comparison)
        report.complete = index + 1 == len(settings) and not comparison.interrupted
        keep(report)
        if comparison.interrupted:
            break
    return report


def to_json(report: Report) -> str:
    return json.dumps(asdict(report), indent=1) + "\n"


def read(path: Path) -> Report:
    """The report of a file that `fastconv compare --save` wrote. Raises ValueError for others."""
    try:
        found = json.loads(path.read_text())
        for comparison in found["comparisons"]:
            comparison["rivals"] = [Rival(**rival) for rival in comparison["rivals"]]
        found["comparisons"] = [Comparison(**comparison) for comparison in found["comparisons"]]
        return Report(**found)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no comparisons of fastconv compare: {error}") from error


def merge(reports: Sequence[Report]) -> Report:
    """The comparisons of several runs on one machine. Raises ValueError where machines differ."""
    first = reports[0]
    for report in reports[1:]:
        if found := difference(first.machine, report.machine, but=VARIES):
            name, there, here = found
            raise ValueError(f"results of {name} {there} and of {here} do not go together")
    complete = all(report.complete for report in reports)
    return Report(first.machine, complete, [c for report in reports for c in report.comparisons])
