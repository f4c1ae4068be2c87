"""python -m bench.optimize seconds|memory|styles|layers --out FILE.json: what optimize promises.

Each part replaces its own rows of the file and leaves the others; a table goes to FILE.md.
"""

import functools
import json
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

import fastconv
from bench.processes import in_own_process
from fastconv.files import write_whole
from fastconv.machine import machine
from fastconv.optimize import layout
from fastconv.optimize.race import race
from fastconv.tables.common import as_markdown, plain_table
from tests.single_layers import LAYERS
from tests.styles import STYLES, build

WAYS: dict[str, dict[str, Any]] = {
    "no race": {"measure": False},
    "default": {},
    "measure=True": {"measure": True},
    "any_size=True": {"any_size": True},
}
RACE_SECONDS = 0.1
MEMORY_BATCH = 16


class Part(StrEnum):
    SECONDS = "seconds"
    MEMORY = "memory"
    STYLES = "styles"
    LAYERS = "layers"


def main(
    part: Part,
    out: Annotated[Path, typer.Option(help="A .json file.")],
    network: Annotated[list[str] | None, typer.Option(help="seconds, memory")] = None,
    batch: Annotated[int, typer.Option(min=1, help="styles, layers")] = 16,
) -> None:
    """Measure one part of what optimize promises on this machine."""
    results = json.loads(out.read_text()) if out.exists() else {}
    networks = network or ["mobilenet_v2"]
    if part == Part.SECONDS:
        rows = [{"network": name} | seconds(name) for name in networks]
    elif part == Part.MEMORY:
        rows = [{"network": name, "batch": MEMORY_BATCH} | memory(name) for name in networks]
    else:
        rows = list(styles(batch) if part == Part.STYLES else layers(batch))
    keys = [(row.get("network"), row.get("batch")) for row in rows]
    others = [
        row
        for row in results.get(part, {}).get("rows", [])
        if (row.get("network"), row.get("batch")) not in keys
    ]
    results[part] = {"machine": machine(), "rows": others + rows}
    write_whole(out, json.dumps(results, indent=1) + "\n")
    write_whole(out.with_suffix(".md"), "\n\n".join(_tables(results)) + "\n")


def seconds(name: str) -> dict[str, float]:
    """Seconds of the first optimize of a process, at batch 1, in each way."""
    return {way: in_own_process(_seconds, name, settings) for way, settings in WAYS.items()}


def _seconds(name: str, settings: dict[str, Any]) -> float:
    model = fastconv.models.build(name).eval()
    image = torch.randn(1, *model.input_size)
    start = time.perf_counter()
    fastconv.optimize(model, (image,), **settings)
    return round(time.perf_counter() - start, 2)


def memory(name: str) -> dict[str, float]:
    """Peak memory of the intermediates, optimized and eager, in MB of 10^6 bytes."""
    model = fastconv.models.build(name).eval()
    images = torch.randn(MEMORY_BATCH, *model.input_size)
    fast = fastconv.optimize(model, (images,))
    ours, torchs = (fastconv.peak_memory(network, images) for network in (fast, model))
    return {"optimized": ours / 1e6, "torch": torchs / 1e6, "share": round(ours / torchs, 3)}


def styles(batch: int) -> Iterator[dict[str, Any]]:
    """What became of each network of tests/styles.py, by its receipt."""
    for name in STYLES:
        torch.manual_seed(0)
        model = build(name).eval()
        args, kwargs = model.example(batch)
        fast: Any = fastconv.optimize(model, args, example_kwargs=kwargs)
        yield {"style": name, "batch": batch, **_outcome(fast.receipt)}


def _outcome(receipt: list[dict[str, Any]]) -> dict[str, Any]:
    last = receipt[-1]
    measured = last.get("measured")
    return {
        "came back": last["kernel"] if last["layer"] == "model" else "optimized",
        "raced, x torch": measured and round(measured["torch"] / measured["optimized"], 2),
        "reason": last.get("reason", "") if last["layer"] == "model" else "",
    }


def layers(batch: int) -> Iterator[dict[str, Any]]:
    """Each network of tests/single_layers.py: what came back, and the times as fast as torch of
    that and of both orders of memory, timed apart from the race in optimize."""
    for name, (builder, size) in LAYERS.items():
        for given in ("contiguous", "channels_last")[: 2 if len(size) == 3 else 1]:
            torch.manual_seed(0)
            model, x = builder().eval(), torch.randn(batch, *size)
            x = x.to(memory_format=getattr(torch, given + "_format", torch.channels_last))
            fast: Any = fastconv.optimize(model, x)
            planned = [_planned(model, x, enough) for enough in (0, 10**9)]
            rivals = [functools.partial(network, x) for network in (model, fast, *planned)]
            with torch.no_grad():
                torchs, *ours = (spent for spent in race(rivals, RACE_SECONDS))
            names = ("x torch", "channels_last", "as it comes")
            ratios = {way: round(torchs / spent, 2) for way, spent in zip(names, ours, strict=True)}
            outcome = _outcome(fast.receipt)["came back"]
            yield {"layer": name, "batch": batch, "input": given, "came back": outcome} | ratios


def _planned(model: nn.Module, x: torch.Tensor, enough: int) -> nn.Module:
    """The plan without a race, where so many layers pay for channels_last."""
    usual, layout.ENOUGH = layout.ENOUGH, enough
    try:
        return fastconv.optimize(model, x, measure=False)
    finally:
        layout.ENOUGH = usual


def _tables(results: dict[str, Any]) -> Iterator[str]:
    titles = {
        "seconds": "Seconds of the first optimize of a process, batch 1",
        "memory": "Peak memory of intermediates in a call, MB",
        "styles": "What became of the networks of tests/styles.py",
        "layers": "Networks of a layer or two (tests/single_layers.py), times as fast as torch",
    }
    for part, title in titles.items():
        rows = results.get(part, {}).get("rows", [])
        if not rows:
            continue
        where = results[part]["machine"]
        table = plain_table(
            f"{title}: {where['processor']}, {where['threads']} threads, torch {where['torch']}"
        )
        for column in rows[0]:
            table.add_column(column)
        for row in rows:
            table.add_row(*(_cell(value) for value in row.values()))
        yield as_markdown(table)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    typer.run(main)
