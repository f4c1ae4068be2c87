"""fastconv optimize: what optimize does to each layer of a network, and why."""

from typing import Annotated, Any

import torch
import typer

import fastconv
import fastconv.tables as tables
from fastconv.cli.common import Dtype, Json, Threads, app, expected_errors, print_json
from fastconv.peers.model import build_model, input_size


@app.command("optimize")
def optimize_command(
    name: Annotated[
        str, typer.Argument(metavar="MODEL", help="Of fastconv.models, or module:function.")
    ],
    batch: Annotated[int, typer.Option(min=1)] = 1,
    dtype: Annotated[Dtype, typer.Option()] = Dtype.FLOAT32,
    any_size: Annotated[
        bool, typer.Option("--any-size", help="Leave height and width open.")
    ] = False,
    measure: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Seconds to race the ways there are for each layer; 0: no race at all.",
        ),
    ] = None,
    winograd: Annotated[
        bool, typer.Option(help="Let 3x3 convolutions use Winograd's products.")
    ] = True,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Show what optimize does to each layer of a network, what it leaves, and why."""
    if threads is not None:
        torch.set_num_threads(threads)
    with expected_errors("MODEL"):
        model = build_model(name).eval()
        images = torch.randn(batch, *input_size(model))
        settings: Any = {"any_size": any_size, "measure": measure, "winograd": winograd}
        try:
            fast: Any = fastconv.optimize(model, images, getattr(torch, dtype), **settings)
        except RuntimeError as error:
            raise ValueError(f"{name}: {error}") from error
    if as_json:
        print_json({"model": name, "receipt": fast.receipt})
    else:
        typer.echo(tables.as_text(tables.receipt(fast.receipt, f"{name} optimized")) + "\n")
