"""Runs a network in a process of its own: its first calls, then oneDNN's log of one call.

python -m fastconv.profiling.fresh JOB ANSWER reads one file and writes the other; oneDNN's log and
what a script prints go to stdout.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from fastconv.peers.onednn import Execution
from fastconv.profiling.child import run_child
from fastconv.profiling.device import synchronized
from fastconv.profiling.networks import side_of
from fastconv.profiling.onednn import BEGIN, mark_line, read_log
from fastconv.profiling.record import Start
from fastconv.profiling.steps import marked
from fastconv.profiling.subject import load

# Later calls are steady when threads, caches and clock rates have settled.
STEADY_CALLS, STEADY_SECONDS = 9, 1.0
TIMEOUT = 300.0


class FreshError(RuntimeError):
    """The process ended without an answer; the message holds its last words."""


Steps = list[tuple[str, list[Execution]]]


def run_fresh(job: dict[str, Any]) -> tuple[Start, Steps]:
    """What a side, 'torch' or 'fastconv', does where nothing ran before, and its oneDNN log."""
    with tempfile.TemporaryDirectory(prefix="fastconv-") as folder:
        question, answer = Path(folder, "job.json"), Path(folder, "answer.json")
        question.write_text(json.dumps(job))
        command = [sys.executable, "-m", "fastconv.profiling.fresh", str(question), str(answer)]
        try:
            ended = run_child(command, job["threads"], TIMEOUT)
        except subprocess.TimeoutExpired:
            raise FreshError(f"gave no answer for {TIMEOUT:.0f} s and was stopped") from None
        if ended.returncode != 0 or not answer.exists():
            lines = [line for line in ended.stderr.splitlines() if line.strip()]
            words = lines[-1] if lines else "it said nothing"
            raise FreshError(f"ended with exit status {ended.returncode}: {words}")
        return Start(**json.loads(answer.read_text())), read_log(ended.stdout.splitlines())


def first_calls(title: str, job: dict[str, Any]) -> tuple[Start, nn.Module, tuple[Any, ...]]:
    device = job["device"]
    subject = load(job["name"], job["batch"], job["dtype"], device=device, untouched=True)
    start = perf_counter()
    network, inputs = side_of(subject, job["side"], job["channels_last"])
    prepare = 1e3 * (perf_counter() - start) if job["side"] == "fastconv" else None

    def call(values: tuple[Any, ...]) -> None:
        with synchronized(torch.device(device)):
            network(*values)

    first, steady = first_and_later(lambda: call(inputs))
    larger = pytree.tree_map(one_more, inputs)
    try:
        new: tuple[float | None, float | None] = first_and_later(lambda: call(larger))
    except (RuntimeError, ValueError):  # the model or its optimized form takes one shape only
        new = None, None
    return Start(title, prepare, first, steady, *new), network, inputs


def first_and_later(call: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds of the first call, and the median of the last ones."""
    times: list[float] = []
    while len(times) <= STEADY_CALLS or sum(times) < 1e3 * STEADY_SECONDS:
        start = perf_counter()
        call()
        times.append(1e3 * (perf_counter() - start))
    return times[0], median(times[-STEADY_CALLS:])


def one_more(value: Any) -> Any:
    """A batch with its first image once more."""
    return torch.cat([value, value[:1]]) if isinstance(value, Tensor) and value.dim() else value


def write_log(network: nn.Module, inputs: tuple[Any, ...]) -> None:
    """One run with oneDNN's log on stdout, each step's end marked there."""

    def mark(step: str) -> None:
        os.write(1, mark_line(step))

    sys.stdout.flush()
    backend = torch.backends.mkldnn
    with torch.no_grad(), marked(network, mark) as function:
        function(*inputs)
        with backend.verbose(backend.VERBOSE_ON):
            mark(BEGIN)
            function(*inputs)


def main(question: str, answer: str) -> None:
    job = json.loads(Path(question).read_text())
    torch.set_num_threads(job["threads"])
    with torch.inference_mode():
        start, network, inputs = first_calls(job["title"], job)
    if job["device"] == "cpu" and torch.backends.mkldnn.is_available():
        write_log(network, inputs)
    Path(answer).write_text(json.dumps(vars(start)))


if __name__ == "__main__":
    main(*sys.argv[1:])
