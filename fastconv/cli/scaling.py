"""fastconv scale: how far a network can grow on this device."""

from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer

import fastconv.tables as tables
from fastconv.cli.common import Json, Threads, app, expected_errors, print_json, progress_bar
from fastconv.scaling import advise


class Network(StrEnum):
    LITE0 = "efficientnet_lite0"
    B0 = "efficientnet_b0"


@app.command("scale")
def scale_command(
    latency_ms: Annotated[float | None, typer.Option(help="Budget of one inference.")] = None,
    memory_mb: Annotated[
        float | None, typer.Option(help="Budget of parameters and activations, in 1024^2 bytes.")
    ] = None,
    network: Annotated[Network, typer.Option(help="What is grown.")] = Network.LITE0,
    alpha: Annotated[float, typer.Option(min=1, help="Depth is multiplied by alpha^phi.")] = 1.2,
    beta: Annotated[float, typer.Option(min=1, help="Width, by beta^phi.")] = 1.1,
    gamma: Annotated[float, typer.Option(min=1, help="Resolution, by gamma^phi.")] = 1.15,
    batch: Annotated[int, typer.Option(min=1)] = 1,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Say how much a network can grow within a budget, by measuring; leave the machine idle."""
    with expected_errors("--latency-ms / --memory-mb"), progress_bar() as progress:
        result = advise(
            latency_ms=latency_ms,
            memory_bytes=None if memory_mb is None else memory_mb * 2**20,
            network=network.value,
            alpha=alpha,
            beta=beta,
            gamma=gamma,
            batch=batch,
            threads=threads,
            progress=progress,
        )
    if as_json:
        print_json(asdict(result))
    else:
        typer.echo(tables.as_text(tables.advice(result)) + "\n")
        typer.echo(tables.recommendation(result))
