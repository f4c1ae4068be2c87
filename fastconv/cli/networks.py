"""fastconv models and fastconv cost: the networks there are, and what they cost."""

from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import torch
import typer
from rich.table import Table

import fastconv.tables as tables
from fastconv.cli.common import Json, app, expected_errors, print_json, progress_bar
from fastconv.cost import Cost, cost
from fastconv.cost.alternatives import INCEPTION, SMALL, WAYS, Task, alternatives
from fastconv.inventory import inventory
from fastconv.peers.model import build_model, input_size


class Padding(StrEnum):
    VALID = "valid"
    SAME = "same"


Markdown = Annotated[bool, typer.Option("--markdown", help="Print Markdown instead of tables.")]


@app.command("models")
def models_command(markdown: Markdown = False, as_json: Json = False) -> None:
    """List the networks of fastconv.models with their cost and our kernels' share of it."""
    with progress_bar() as progress:
        entries = inventory(progress=progress)
    if as_json:
        print_json({"models": [asdict(entry) for entry in entries]})
    else:
        show(tables.models(entries), markdown)


@app.command("cost")
def cost_command(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="Networks of fastconv.models, or module:function; with --compare ways to do one "
            f"layer, of {', '.join(WAYS)}.",
        ),
    ],
    batch: Annotated[int, typer.Option(min=1)] = 1,
    size: Annotated[
        int | None, typer.Option(min=1, help="Height and width, if not the network's own.")
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Each layer, of several too.")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="Ways to do one layer.")] = False,
    input: Annotated[
        str | None, typer.Option(metavar="HxWxC", help="Input of the one layer.")
    ] = None,
    kernel: Annotated[int | None, typer.Option(min=1, help="Its side, of the one layer.")] = None,
    filters: Annotated[int | None, typer.Option(min=1, help="Of the one layer.")] = None,
    bottleneck: Annotated[int | None, typer.Option(min=1, help="Its channels.")] = None,
    padding: Annotated[Padding | None, typer.Option(help="Of the one layer.")] = None,
    markdown: Markdown = False,
    as_json: Json = False,
) -> None:
    """Count parameters, multiplications and memory of networks, or of ways to do one layer."""
    with expected_errors("NAME"):
        if compare:
            task = read_task(names, input, kernel, filters, bottleneck, padding)
            found = alternatives(names, task)
            if as_json:
                print_json({"task": asdict(task), "ways": [asdict(way) for way in found]})
            else:
                show(tables.alternatives(found, task), markdown)
            return
        reports = {name: network_cost(name, batch, size) for name in names}
    if as_json:
        print_json({name: report.to_dict() for name, report in reports.items()})
    elif layers or len(reports) == 1:
        for name, report in reports.items():
            show(tables.layer_costs(report, name), markdown)
    if not as_json and len(reports) > 1:
        show(tables.costs(reports.items()), markdown)


def network_cost(name: str, batch: int, size: int | None) -> Cost:
    with torch.device("meta"):
        model = build_model(name)
    channels, height, width = input_size(model)
    try:
        return cost(model, (batch, channels, size or height, size or width))
    except RuntimeError as error:
        raise ValueError(f"{name}: {error}") from error


def read_task(
    names: Sequence[str],
    input: str | None,
    kernel: int | None,
    filters: int | None,
    bottleneck: int | None,
    padding: Padding | None,
) -> Task:
    """The task that the options describe; what they leave out is as in the known example."""
    task = INCEPTION if "inception-bottleneck" in names else SMALL
    height, width, channels = task.height, task.width, task.channels
    if input is not None:
        try:
            height, width, channels = map(int, input.split("x"))
        except ValueError:
            raise ValueError(f"--input must be like 28x28x192, got {input!r}") from None
    return Task(
        height=height,
        width=width,
        channels=channels,
        kernel=kernel or task.kernel,
        filters=filters or task.filters,
        bottleneck=bottleneck or task.bottleneck,
        padding=padding or task.padding,
    )


def show(table: Table, markdown: bool) -> None:
    """As wide as the table is, for a name cut short tells nobody which layer it was."""
    typer.echo((tables.as_markdown(table) if markdown else tables.as_text(table)) + "\n")
