"""fastconv demo and fastconv compare: networks timed against their rivals."""

from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer

import fastconv.tables as tables
from fastconv.cli.common import (
    Json,
    Threads,
    app,
    expected_errors,
    fail,
    output,
    print_json,
    progress_bar,
)
from fastconv.compare import Comparison, choose_peers, compare
from fastconv.demo import run_demo
from fastconv.peers import DEFAULT_PEERS, PEERS

ALL_PEERS = ",".join(DEFAULT_PEERS)


class DType(StrEnum):
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


Peers = Annotated[str, typer.Option(help=f"Comma-separated rivals, of {', '.join(PEERS)}.")]
Seconds = Annotated[float, typer.Option(min=0.1, help="How long all rivals together are timed.")]


@app.command("demo")
def demo_command(
    batch: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Batch to time, 1 if not given; may be repeated."),
    ] = None,
    threads: Threads = None,
    peers: Peers = ALL_PEERS,
    seconds: Seconds = 10.0,
    as_json: Json = False,
) -> None:
    """Classify 20 real photos with plain torch and with fastconv, then compare times."""
    names = split_peers(peers)
    with expected_errors(), progress_bar() as progress:
        result = run_demo(
            batches=batch or [1], threads=threads, peers=names, seconds=seconds, progress=progress
        )
    if as_json:
        print_json(asdict(result))
    else:
        output.print(tables.predictions(result), tables.verdict(result))
        for comparison in result.comparisons:
            output.print(*tables.comparison(comparison))
    if not result.identical:
        fail("torch and fastconv do not give the same predictions")
    for comparison in result.comparisons:
        if not comparison.ok:
            fail(complaint(comparison))


@app.command("compare")
def compare_command(
    model: Annotated[str, typer.Argument(help="Name in fastconv.models, or module:function.")],
    batch: Annotated[int, typer.Option(min=1)] = 1,
    dtype: DType = DType.FLOAT32,
    threads: Threads = None,
    peers: Peers = ALL_PEERS,
    seconds: Seconds = 10.0,
    as_json: Json = False,
) -> None:
    """Time a model in torch, fastconv, ONNX Runtime and OpenVINO, in turn, outputs checked."""
    names = split_peers(peers)
    with expected_errors("MODEL"), progress_bar() as progress:
        result = compare(
            model,
            batch=batch,
            dtype=dtype.value,
            threads=threads,
            peers=names,
            seconds=seconds,
            progress=progress,
        )
    if as_json:
        print_json(asdict(result))
    else:
        output.print(*tables.comparison(result))
    if not result.ok:
        fail(complaint(result))


def split_peers(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    try:
        choose_peers(names)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--peers") from error
    return names


def complaint(result: Comparison) -> str:
    bad = [rival for rival in result.rivals if rival.status in ("wrong", "failed")]
    return "; ".join(f"{rival.title} {rival.reason}" for rival in bad)
