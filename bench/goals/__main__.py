"""python -m bench.goals [NAME ...] [--seconds S] [--json FILE]"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench.goals import ROWS, measure
from bench.goals.roofline import roofline
from bench.goals.table import table
from bench.processes import in_own_process
from fastconv.machine import machine
from fastconv.tables.common import as_markdown


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Rows; all, if none is named.")] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="How long rivals are timed.")] = 1.0,
    file: Annotated[Path | None, typer.Option("--json", help="Where the figures go.")] = None,
) -> None:
    """Measure the goals of the CPU kernels and print the table."""
    known = [row.name for row in ROWS]
    if unknown := set(names or []) - set(known):
        raise typer.BadParameter(f"no row {', '.join(sorted(unknown))}: {', '.join(known)}")
    rows = [row for row in ROWS if not names or row.name in names]
    messages = Console(stderr=True)
    messages.print("measuring the roofline ...")
    limits = in_own_process(roofline, seconds)
    results: list[dict[str, Any]] = []
    for row in rows:
        messages.print(f"measuring {row.name} ...")
        result: dict[str, Any] = {"name": row.name, "item": row.item, "goal": row.goal}
        try:
            result["figures"] = in_own_process(measure, row.name, seconds)
        except Exception as error:  # one row that fails leaves the others their figures
            reason = str(error).partition("\n")[0]
            result["error"] = f"{type(error).__name__}: {reason}"
        results.append(result)
    typer.echo(as_markdown(table(machine(), limits, results)))
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        found = {"machine": machine(), "roofline": limits, "rows": results}
        file.write_text(json.dumps(found, indent=1, default=asdict) + "\n")
    if any("error" in result for result in results):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
