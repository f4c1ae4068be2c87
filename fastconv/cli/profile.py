"""fastconv profile: where a network's time goes, layer by layer, in torch and in fastconv."""

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from fastconv.cli.common import (
    INTERRUPTED,
    Json,
    RivalsDtype,
    Threads,
    app,
    expected_errors,
    fail,
    messages,
    print_json,
    progress_bar,
)
from fastconv.files import require_writable, write_whole
from fastconv.profiling.counters import CountersError, find_ncu
from fastconv.profiling.measure import Session, profile
from fastconv.profiling.on_gpu import GpuSession
from fastconv.profiling.reports import writer_of
from fastconv.profiling.subject import Subject, SubjectError, load
from fastconv.tables.profile import as_text


class Device(StrEnum):
    CPU = "cpu"
    CUDA = "cuda"


@app.command("profile")
def profile_command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|SCRIPT.py",
            help="Of fastconv.models, or module:function, or a Python file that defines `model` "
            "and `inputs`.",
        ),
    ],
    out: Annotated[
        list[Path] | None,
        typer.Option(
            help="Where the report goes: .html, .md, .json, or .trace.json for ui.perfetto.dev; "
            "may be repeated. MODEL.html, if not given."
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images, 1 if not given; a script has its own.")
    ] = None,
    dtype: Annotated[
        RivalsDtype | None, typer.Option(help="What the model is cast to, if not as it is.")
    ] = None,
    device: Annotated[
        Device, typer.Option(help="cuda: times of kernels. It never ran on a GPU yet.")
    ] = Device.CPU,
    ncu: Annotated[
        bool, typer.Option("--ncu", help="With --device cuda: hardware counters by Nsight Compute.")
    ] = False,
    threads: Threads = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long layers are timed.")] = 10.0,
    as_json: Json = False,
) -> None:
    """Measure each layer in torch and in fastconv, and write a page that shows it.

    A script runs as Python runs it, but for __name__, which is "__profile__", and three times, as
    first calls need processes of their own. A run that is interrupted keeps what it has.
    """
    session = session_on(device, ncu)
    paths = out or [Path(Path(name.removesuffix(".py")).name.replace(":", "-") + ".html")]
    torch.set_num_threads(threads or torch.get_num_threads())
    with expected_errors("--out"):
        writers = [(path, writer_of(path)) for path in paths]
        for path in paths:
            require_writable(path)
    try:
        with expected_errors("MODEL|SCRIPT.py / --batch"):
            subject = load(name, batch, dtype and dtype.value, device=device.value)
        with progress_bar() as progress:
            result = profile(subject, seconds=seconds, progress=progress, session=session)
    except SubjectError as error:
        fail(str(error))
    unwritten = [path for path, writer in writers if not written_to(path, writer(result))]
    if as_json:
        print_json(result.to_dict())
    else:
        typer.echo(as_text(result) + "\n")
    written = ", ".join(str(path) for path in paths if path not in unwritten)
    if result.interrupted:
        messages.print(f"fastconv: interrupted; what was measured is in {written}")
        raise typer.Exit(INTERRUPTED)
    if written:
        messages.print(f"written: {written}", highlight=False, soft_wrap=True)
    if unwritten:
        raise typer.Exit(1)


def session_on(device: Device, ncu: bool) -> Callable[[Subject, float], Session]:
    """What measures there; ends the program with a sentence where it cannot."""
    if device is Device.CPU:
        if ncu:
            raise typer.BadParameter(
                "hardware counters are a GPU's: --device cuda", param_hint="--ncu"
            )
        return Session
    if not torch.cuda.is_available():
        fail("torch sees no CUDA device here, so there is none to profile (fastconv doctor)")
    try:
        return partial(GpuSession, ncu=find_ncu() if ncu else None)
    except CountersError as error:
        fail(str(error))


def written_to(path: Path, text: str) -> bool:
    """Whether that went well; if not, the reason is told and what else there is goes on."""
    try:
        write_whole(path, text)
    except OSError as error:
        reason = error.strerror or error
        messages.print(f"fastconv: cannot write {path}: {reason}", soft_wrap=True)
        return False
    return True
