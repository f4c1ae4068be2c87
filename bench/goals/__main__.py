"""python -m bench.goals [NAME ...] [--seconds S] [--json FILE [--resume]]"""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench.goals import ROWS, measure, results
from bench.goals.figures import Row
from bench.goals.roofline import roofline
from bench.goals.table import table
from bench.processes import KEEPING_MEMORY, in_own_process
from fastconv.files import require_writable
from fastconv.machine import machine
from fastconv.tables.common import as_markdown


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Rows; all, if none is named.")] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="How long rivals are timed.")] = 1.0,
    file: Annotated[
        Path | None, typer.Option("--json", help="Where the figures go, after each row.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the rows that the file has; measure the others.")
    ] = False,
) -> None:
    """Measure the goals of the CPU kernels and print the table. Ctrl-C keeps the rows before it."""
    known = [row.name for row in ROWS]
    if unknown := set(names or []) - set(known):
        raise typer.BadParameter(f"no row {', '.join(sorted(unknown))}: {', '.join(known)}")
    found: dict[str, Any] = {"machine": machine(), "complete": False, "roofline": {}, "rows": []}
    try:
        if resume and file and file.exists():
            found = results.read(file, found["machine"])
        if file:
            require_writable(file)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--json") from error
    have = {row["name"] for row in found["rows"]}
    rows = [row for row in ROWS if row.name not in have and (not names or row.name in names)]
    try:
        measure_rows(rows, seconds, found, file)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted: --resume measures the rows that are not here")
    typer.echo(as_markdown(table(found)))
    wanted = {row.name for row in rows}
    if any("error" in row for row in found["rows"]) or wanted - {r["name"] for r in found["rows"]}:
        raise typer.Exit(1)


def measure_rows(rows: list[Row], seconds: float, found: dict[str, Any], file: Path | None) -> None:
    """Adds the rows to what was found before, in the order of the table."""
    messages = Console(stderr=True)
    order = [row.name for row in ROWS]
    if rows:
        messages.print("measuring the roofline ...")
        for name, rate in in_own_process(roofline, seconds).items():
            found["roofline"][name] = max(rate, found["roofline"].get(name, 0.0))
    for row in rows:
        messages.print(f"measuring {row.name} ...")
        result: dict[str, Any] = {"name": row.name, "item": row.item, "goal": row.goal}
        environment = {} if row.whole_network else KEEPING_MEMORY
        began = time.perf_counter()
        try:
            result["figures"] = in_own_process(measure, row.name, seconds, environment=environment)
        except Exception as error:  # one row that fails leaves the others their figures
            reason = str(error).partition("\n")[0]
            result["error"] = f"{type(error).__name__}: {reason}"
        result["took_seconds"] = round(time.perf_counter() - began, 1)
        found["rows"] = sorted([*found["rows"], result], key=lambda r: order.index(r["name"]))
        found["complete"] = [r["name"] for r in found["rows"]] == order
        if file:
            results.write(file, found)


if __name__ == "__main__":
    typer.run(main)
