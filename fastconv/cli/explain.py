"""fastconv explain: which kernel serves each layer of a network, here or on another GPU."""

from typing import Annotated

import torch
import typer

import fastconv
import fastconv.tables as tables
from fastconv.cli.common import Dtype, Json, app, expected_errors, fail, print_json
from fastconv.peers.model import build_model, input_size


@app.command("explain")
def explain_command(
    name: Annotated[
        str, typer.Argument(metavar="MODEL", help="Of fastconv.models, or module:function.")
    ],
    device: Annotated[
        str, typer.Option(help="cpu, cuda, or a GPU to plan for: meta-h100, meta-a100, ...")
    ] = "cpu",
    backend: Annotated[str, typer.Option(help="As use_backend forces it.")] = "auto",
    batch: Annotated[int, typer.Option(min=1)] = 1,
    dtype: Annotated[Dtype, typer.Option()] = Dtype.FLOAT32,
    channels_last: Annotated[bool, typer.Option(help="The layout of images and weights.")] = True,
    timed: Annotated[
        bool, typer.Option("--timed", help="Time each op alone, beside a copy of as many bytes.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Tell which kernel serves each layer of a network with our layers swapped in, and why."""
    planned = device.startswith("meta-")
    if not planned:
        require_device(device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    with expected_errors("MODEL / --device / --backend"), fastconv.use_backend(backend):
        with torch.device("meta" if planned else device):
            model = fastconv.swap_(build_model(name).eval())
            images = torch.zeros(batch, *input_size(model))
        model = model.to(getattr(torch, dtype))
        model = model.to(memory_format=layout)  # type: ignore[call-overload]
        images = images.to(getattr(torch, dtype), memory_format=layout)
        planned_for = device if planned else None
        rows = fastconv.explain(model, images, device=planned_for, timed=timed)
    if as_json:
        print_json({"model": name, "device": device, "rows": rows})
    else:
        typer.echo(tables.as_text(tables.explanation(rows, f"{name} on {device}")) + "\n")


def require_device(name: str) -> None:
    """Ends the command with a sentence where torch has no such device here."""
    try:
        kind = torch.device(name).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise typer.BadParameter(
            f"expected cpu, cuda or meta-h100, got {name!r}", param_hint="--device"
        )
    if kind == "cuda" and not torch.cuda.is_available():
        fail("torch sees no CUDA device here (fastconv doctor); meta-h100 plans for one")
