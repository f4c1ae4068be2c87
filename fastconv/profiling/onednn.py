"""What oneDNN says it ran: its verbose log, with a line of ours at the end of each step.

A line is onednn_verbose,v1,primitive,exec,ENGINE,KIND,IMPLEMENTATION,PROPAGATION,MEMORY,ATTRIBUTES,
ALGORITHM,PROBLEM,MILLISECONDS; see "Verbose Mode" in oneDNN's documentation.
"""

from collections.abc import Iterable
from typing import NamedTuple

MARK = "fastconv_step,"
BEGIN = "the log begins"  # of a step, before which nothing counts
EXECUTED = "onednn_verbose,v1,primitive,exec,"

# What an implementation's name says about its speed: the first word that it holds counts.
SLOW = {
    "ref": "oneDNN's scalar reference",
    "gemm": "im2col and a matrix product (gemm), a generic path",
    "simple": "oneDNN's generic loops",
}


class Execution(NamedTuple):
    """One primitive that ran within a step."""

    step: str
    kind: str
    implementation: str
    ms: float
    problem: str


def mark_line(step: str) -> bytes:
    return f"{MARK}{step}\n".encode()


def read_log(lines: Iterable[str]) -> list[tuple[str, list[Execution]]]:
    """Each step after BEGIN with what ran in it; what is after the last mark is left out."""
    steps: list[tuple[str, list[Execution]]] = []
    waiting: list[tuple[str, str, float, str]] = []
    for line in lines:
        line = line.strip()
        if line.startswith(MARK):
            step = line.removeprefix(MARK)
            steps.append((step, [Execution(step, *rest) for rest in waiting]))
            waiting = []
            if step == BEGIN:
                steps.clear()
        elif line.startswith(EXECUTED):
            _engine, kind, implementation, *rest = line.removeprefix(EXECUTED).split(",")
            waiting.append((kind, implementation, float(rest[-1]), rest[-2]))
    return steps


def slow_path(execution: Execution) -> str | None:
    """Why an implementation is slow, None where it is not known to be.

    A reorder's own kernels are called simple and are counted as reorders.
    """
    words = execution.implementation.replace(":", " ").replace("_", " ").split()
    if execution.kind == "reorder":
        return None
    product = execution.kind in ("convolution", "deconvolution")
    for word, why in SLOW.items():
        if word in words and (word != "gemm" or product):
            return why
    return None
