"""fastconv demo and fastconv compare: networks timed against their rivals."""

import signal
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import fastconv.tables as tables
from fastconv import charts, comparisons
from fastconv.cli.common import (
    Json,
    RivalsDtype,
    Threads,
    app,
    expected_errors,
    fail,
    output,
    print_json,
    progress_bar,
)
from fastconv.compare import Comparison, choose_peers
from fastconv.comparisons import Report
from fastconv.demo import run_demo
from fastconv.files import require_writable, write_whole
from fastconv.peers import DEFAULT_PEERS, PEERS

ALL_PEERS = ",".join(DEFAULT_PEERS)


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
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL...", help="Names in fastconv.models, or module:function."),
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="1, if not given; may be repeated.")
    ] = None,
    dtype: Annotated[
        list[RivalsDtype] | None, typer.Option(help="float32, if not given; may be repeated.")
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(min=1, help="As many as cores, if not given; may be repeated."),
    ] = None,
    peers: Peers = ALL_PEERS,
    seconds: Seconds = 10.0,
    save: Annotated[
        list[Path] | None,
        typer.Option(help="Write a file: .json, .md or .svg (a chart); may be repeated."),
    ] = None,
    load: Annotated[
        list[Path] | None,
        typer.Option(help="Show a .json that was saved, measure nothing; several become one."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Time models in torch, fastconv, ONNX Runtime and OpenVINO, in turn, outputs checked.

    Every combination of model, dtype, threads and batch is a comparison. Files are written anew
    after each, so that Ctrl-C leaves what is done.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a time limit ends it as Ctrl-C does
    names, files = split_peers(peers), save or []
    if bool(models) == bool(load):
        raise typer.BadParameter("name a model, or a file by --load", param_hint="MODEL")
    with expected_errors("--save"):
        prepare_files(files)
    if load:
        with expected_errors("--load"):
            report = comparisons.merge([comparisons.read(file) for file in load])
        save_files(report, files)
    else:
        with expected_errors("MODEL"), progress_bar() as progress:
            report = comparisons.compare_all(
                models or [],
                batches=batch or [1],
                dtypes=[d.value for d in dtype or [RivalsDtype.FLOAT32]],
                threads=threads or [None],
                peers=names,
                seconds=seconds,
                progress=progress,
                keep=lambda report: save_files(report, files),
            )
    if as_json:
        typer.echo(comparisons.to_json(report), nl=False)
    else:
        for comparison in report.comparisons:
            output.print(*tables.comparison(comparison))
        if len(report.comparisons) > 1:
            output.print(tables.speedups(report.comparisons))
    bad = [comparison for comparison in report.comparisons if not comparison.ok]
    if bad:
        fail("; ".join(map(complaint, bad)))
    if not report.complete:
        fail("interrupted: not all that was asked for is measured, and the result says so")


WRITERS = {
    ".json": comparisons.to_json,
    ".md": tables.report,
    ".svg": charts.comparison_svg,
}


def prepare_files(files: list[Path]) -> None:
    """Raises, before anything is measured, where one of them will not be written."""
    for file in files:
        if file.suffix not in WRITERS:
            raise ValueError(f"{file} is none of {', '.join(WRITERS)}")
        if file.suffix == ".svg":
            charts.require_matplotlib()
        require_writable(file)


def save_files(report: Report, files: list[Path]) -> None:
    for file in files:
        write_whole(file, WRITERS[file.suffix](report))


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
