"""python -m bench.recipes digits|ensemble|transfer|latency|augmentation --out FOLDER"""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.recipes import augmentation, ensemble, latency, transfer
from bench.recipes.published import TOP1
from fastconv.cli.common import progress_bar
from fastconv.machine import machine

RESULTS = "recipes.json"


class Name(StrEnum):
    DIGITS = "digits"
    ENSEMBLE = "ensemble"
    TRANSFER = "transfer"
    LATENCY = "latency"
    AUGMENTATION = "augmentation"


def main(
    name: Name,
    out: Annotated[Path, typer.Option(help="Folder for pictures, networks and recipes.json.")],
    data: Annotated[str, typer.Option(help="transfer: the images.")] = "digits",
    each: Annotated[int, typer.Option(min=1, help="transfer: images a class.")] = 40,
    size: Annotated[int, typer.Option(min=32, help="transfer: height and width.")] = 64,
    form: Annotated[list[str] | None, typer.Option(help="transfer: forms; all, if none.")] = None,
    network: Annotated[list[str] | None, typer.Option(help="latency: all, if none.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="latency: for a network.")] = 1.0,
) -> None:
    """Show what the recipes reach here; recipes.json keeps what was found by earlier calls."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / RESULTS
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    machines = results.setdefault("machines", {})
    machines[name.value] = machine()
    with progress_bar() as progress:
        if name == Name.DIGITS:
            results["digits"] = ensemble.digits(out, progress)
        elif name == Name.ENSEMBLE:
            results["ensemble"] = ensemble.ensembles(out, progress)
        elif name == Name.TRANSFER:
            rows = transfer.transfer(data, each, size, form or transfer.FORMS)
            keep(results, "transfer", rows, ("data", "images a class", "size", "form"))
        elif name == Name.LATENCY:
            rows = [latency.latency(one, seconds) for one in network or TOP1]
            keep(results, "latency", rows, ("network",))
            latency.plot(results["latency"], machines["latency"], out / "latency.png")
        else:
            augmentation.sheet(out / "augmentation.png")
    file.write_text(json.dumps(results, indent=1) + "\n")
    if name.value in results:
        typer.echo(json.dumps(results[name.value], indent=1))


def keep(results: dict[str, Any], name: str, rows: list[Any], keys: tuple[str, ...]) -> None:
    """Puts rows in place of those with the same keys."""
    new = {tuple(row[key] for key in keys) for row in rows}
    old = [r for r in results.get(name, []) if tuple(r[key] for key in keys) not in new]
    results[name] = old + rows


if __name__ == "__main__":
    typer.run(main)
