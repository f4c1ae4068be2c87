"""The gate: are our kernels as many times as fast as torch as they were? python -m bench.gate

The cases of bench/quick.py are raced against torch. A row that lost more than TOLERANCE of its
ratio in the baseline is raced once more, and named if it lost it again. Times are never compared,
for another hour of the same machine has others; nor are the ratios of two machines.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from bench.cases import Case
from bench.kernels import Races, racers_of, ran_reference
from bench.quick import QUICK
from fastconv.files import require_writable, write_whole
from fastconv.machine import difference, machine
from fastconv.tables.common import as_markdown

BASELINE = Path(__file__).parent / "results" / "gate.json"
# Of unchanged kernels, each raced two to six times on one thread of a Zen 5, the upper end of the
# interval fell to 0.955 of a former ratio at the lowest (depthwise grad_weight 1x96x56x56, 7x7). On
# another day 16x144x56x56, which memory bounds and other machines share, gave 1.9, 2.0 and 2.5, and
# on two threads three rows fell to 0.71 to 0.80: so one thread, and the lowest of three runs.
TOLERANCE = 0.1
RUNS = 3  # of a baseline, each in processes of its own
MAY_VARY = ("isa", "torch", "fastconv", "date")  # between machines whose ratios can be compared


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as torch; high: the upper end of its interval."""

    value: float
    high: float


Ratios = dict[str, Ratio]


def measure(races: Races, case: Case, seconds: float) -> Ratios:
    """Ours in each layout; nothing where torch runs a reference path, which measures torch."""
    racers = [r for r in racers_of(case) if r.rival in ("fastconv", "torch")]
    result = races.run(case, racers, seconds)
    for racer, rival in result.rivals.items():
        if rival.status != "ok":
            raise RuntimeError(f"{case}: {racer} is {rival.status}: {rival.reason}")
    if any(ran_reference(case, r) for r in result.rivals.values() if r.name == result.baseline):
        return {}
    found = {}
    for racer, rival in result.rivals.items():
        if racer.rival == "fastconv" and rival.speedup is not None:
            high = rival.speedup_interval[1] if rival.speedup_interval else rival.speedup
            found[f"{case} {racer.layout}"] = Ratio(rival.speedup, high)
    return found


def slower(now: Ratios, before: dict[str, float]) -> list[str]:
    """The rows whose ratio, even at the upper end of its interval, has lost too much."""
    return [row for row, r in now.items() if r.high < (1 - TOLERANCE) * before.get(row, 0.0)]


def measure_all(cases: list[Case], before: dict[str, float], seconds: float) -> Ratios:
    """Every case once, and once more where it seems slower: then the better of the two counts."""
    messages = Console(stderr=True)
    found: Ratios = {}
    races = Races(torch.get_num_threads())
    try:
        for case in cases:
            messages.print(f"{case} ...", highlight=False)
            now = measure(races, case, seconds)
            if slower(now, before):
                again = measure(races, case, seconds)
                now = {row: max(now[row], again[row], key=lambda r: r.value) for row in now}
            found |= now
    finally:
        races.close()
    return found


def read_baseline(path: Path) -> dict[str, float]:
    """The ratios of a baseline of this machine; ValueError where there is none."""
    if not path.exists():
        raise ValueError(f"there is no baseline {path}: --update writes one")
    baseline = json.loads(path.read_text())
    if found := difference(baseline["machine"], machine(), but=MAY_VARY):
        name, there, here = found
        raise ValueError(
            f"the baseline is of {name} {there}, this is {here}, and ratios of two machines say "
            "nothing about each other: --update makes one here"
        )
    return baseline["ratios"]


def as_table(now: Ratios, before: dict[str, float], lost: list[str]) -> Table:
    result = Table("row", "x torch, baseline", "x torch, now", "", title="The gate")
    for row, ratio in now.items():
        old = before.get(row)
        verdict = "slower" if row in lost else "" if old else "not in the baseline"
        result.add_row(row, f"{old:.2f}" if old else "", f"{ratio.value:.2f}", verdict)
    return result


def main(
    update: Annotated[bool, typer.Option("--update", help="Write the baseline anew.")] = False,
    baseline: Annotated[Path, typer.Option(help="The file of the baseline.")] = BASELINE,
    only: Annotated[str, typer.Option(help="Cases whose name has this; not to update.")] = "",
    seconds: Annotated[float, typer.Option(min=0.01, help="How long a case is timed.")] = 0.5,
) -> None:
    """Name the rows that got slower against torch; exit status 1 if there are any."""
    cases = [case for case in QUICK if only in str(case)]
    if not cases or (update and only):
        raise typer.BadParameter("no case has this name" if not cases else "--update takes all")
    try:
        if update:
            require_writable(baseline)
        before = {} if update else read_baseline(baseline)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--baseline") from error
    if update:
        runs = [measure_all(cases, before, seconds) for _ in range(RUNS)]
        ratios = {row: round(min(run[row].value for run in runs), 3) for row in runs[0]}
        write_whole(baseline, json.dumps({"machine": machine(), "ratios": ratios}, indent=1) + "\n")
        return
    now = measure_all(cases, before, seconds)
    lost = slower(now, before)
    typer.echo(as_markdown(as_table(now, before, lost)))
    gone = sorted(set(before) - set(now)) if not only else []
    for row in lost:
        typer.echo(
            f"slower: {row}, {now[row].value:.2f} times torch, was {before[row]:.2f}", err=True
        )
    for row in gone:
        typer.echo(f"in the baseline and not measured: {row}", err=True)
    if lost or gone:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
