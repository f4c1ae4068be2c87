"""What all commands share: where they write, how they fail, how they show that they work."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from fastconv.dispatch import BackendError
from fastconv.peers.entrant import ComparisonError
from fastconv.progress import Progress
from fastconv.tables.common import PLAIN

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fast kernels for the cheap layers of convolutional networks.",
)
output = Console(**PLAIN)
messages = Console(stderr=True, **PLAIN)

INTERRUPTED = 130  # what a shell says of a program that SIGINT ended

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of tables.")]
Threads = Annotated[int | None, typer.Option(min=1, help="As many as cores, if not given.")]


class Dtype(StrEnum):
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class RivalsDtype(StrEnum):
    """What every rival computes in on a CPU."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


# Beside ValueError, what a user can mend: a package to install, a disk, a rate that is too high.
MENDABLE = (ModuleNotFoundError, OSError, FloatingPointError, ComparisonError, BackendError)


@contextmanager
def expected_errors(argument: str | None = None) -> Iterator[None]:
    """Says in one sentence what a user can mend; anything else is a bug and keeps its traceback."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=argument) from error
    except MENDABLE as error:
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
                messages.print(f"{what} ...", highlight=False)

        yield say
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Bar(*columns, console=messages, transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda what, share: bar.update(task, description=what, completed=share)


def print_json(result: dict[str, Any]) -> None:
    typer.echo(json.dumps(result, indent=2))


def fail(sentence: str) -> NoReturn:
    messages.print(f"fastconv: {sentence}", highlight=False, soft_wrap=True)
    raise typer.Exit(1)
