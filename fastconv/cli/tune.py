"""fastconv tune: the fastest settings of the Triton kernels for a network, found on this GPU."""

from dataclasses import asdict
from typing import Annotated

import torch
import typer

import fastconv
import fastconv.tables as tables
from fastconv.cli.common import Dtype, Json, app, expected_errors, print_json, progress_bar
from fastconv.peers.model import build_model, input_size
from fastconv.tuning import calls_of, device_named, tune


@app.command("tune")
def tune_command(
    name: Annotated[
        str, typer.Argument(metavar="MODEL", help="Of fastconv.models, or module:function.")
    ],
    batch: Annotated[int, typer.Option(min=1)] = 1,
    dtype: Annotated[Dtype, typer.Option()] = Dtype.FLOAT32,
    device: Annotated[str, typer.Option(help="The GPU that is tuned for: cuda, cuda:1.")] = "cuda",
    training: Annotated[
        bool, typer.Option("--training", help="For training, by fastconv.swap_; else inference.")
    ] = False,
    channels_last: Annotated[bool, typer.Option(help="The layout of images and weights.")] = True,
    again: Annotated[
        bool, typer.Option("--again", help="Search too what was tuned before.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Search the fastest settings of the Triton kernels that a network calls, and keep them.

    For inference those of the optimized network and of single layers, swapped in.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    with expected_errors("MODEL / --device"), progress_bar() as progress:
        gpu = device_named(device)
        model = build_model(name).eval()
        images = torch.zeros(batch, *input_size(model)).to(memory_format=layout)
        model = model.to(memory_format=layout)  # type: ignore[call-overload]
        calls = {}
        if not training:
            progress("optimizing the network", 0.0)
            # Of two, so that the batch stays open.
            optimized = fastconv.optimize(model, (images[:2],), measure=False).to("meta")
            calls = calls_of(optimized, images, dtype=getattr(torch, dtype))
        calls |= calls_of(fastconv.swap_(model), images, training, getattr(torch, dtype))
        result = tune(calls, gpu, again=again, progress=progress)
    if as_json:
        print_json(asdict(result))
    else:
        typer.echo(tables.as_text(tables.tuning(result)) + "\n")
