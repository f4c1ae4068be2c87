"""The command `fastconv`: reads arguments, calls the work, shows what it returns."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

import fastconv.tables as tables
from fastconv.compare import Comparison, ComparisonError, choose_peers, compare
from fastconv.demo import run_demo
from fastconv.doctor import examine
from fastconv.peers import DEFAULT_PEERS, PEERS
from fastconv.progress import Progress

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fast kernels for the cheap layers of convolutional networks.",
)
output = Console()
messages = Console(stderr=True)

ALL_PEERS = ",".join(DEFAULT_PEERS)


class DType(StrEnum):
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


Peers = Annotated[str, typer.Option(help=f"Comma-separated rivals, of {', '.join(PEERS)}.")]
Threads = Annotated[int | None, typer.Option(min=1, help="As many as cores, if not given.")]
Seconds = Annotated[float, typer.Option(min=0.1, help="How long all rivals together are timed.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of tables.")]


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


@app.command("doctor")
def doctor_command(as_json: Json = False) -> None:
    """Show what is built and found on this machine, and how to get the rest."""
    findings = examine()
    if as_json:
        print_json({"findings": [asdict(finding) for finding in findings]})
    else:
        output.print(tables.findings(findings))
    lacking = [finding for finding in findings if finding.needed and not finding.found]
    if lacking:
        fail("; ".join(f"no {finding.name}: {finding.detail}" for finding in lacking))


def split_peers(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    try:
        choose_peers(names)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--peers") from error
    return names


@contextmanager
def expected_errors(argument: str | None = None) -> Iterator[None]:
    """Says in one sentence what a user can mend; anything else is a bug and keeps its traceback."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=argument) from error
    except (ModuleNotFoundError, FileNotFoundError, ComparisonError) as error:
        fail(str(error))


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on stderr, gone when the work is done; stdout holds only the result.

    Where stderr is no terminal, a line for each step.
    """
    if not messages.is_terminal:
        said: set[str] = set()

        def say(what: str, share: float) -> None:
            if what not in said:
                said.add(what)
                messages.print(f"{what} ...", markup=False, highlight=False)

        yield say
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Bar(*columns, console=messages, transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda what, share: bar.update(task, description=what, completed=share)


def complaint(result: Comparison) -> str:
    bad = [rival for rival in result.rivals if rival.status in ("wrong", "failed")]
    return "; ".join(f"{rival.title} {rival.reason}" for rival in bad)


def print_json(result: dict[str, Any]) -> None:
    typer.echo(json.dumps(result, indent=2))


def fail(sentence: str) -> None:
    messages.print(f"fastconv: {sentence}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1)
