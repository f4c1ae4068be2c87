"""What oneDNN says it ran in each step: its verbose log, with a line of ours at the end of each."""

from collections.abc import Iterable

from fastconv.peers.onednn import Execution, executed

MARK = "fastconv_step,"
BEGIN = "the log begins"  # of a step, before which nothing counts

# What an implementation's name says about its speed: the first word that it holds counts.
SLOW = {
    "ref": "oneDNN's scalar reference",
    "gemm": "im2col and a matrix product (gemm), a generic path",
    "simple": "oneDNN's generic loops",
}


def mark_line(step: str) -> bytes:
    return f"{MARK}{step}\n".encode()


def read_log(lines: Iterable[str]) -> list[tuple[str, list[Execution]]]:
    """Each step after BEGIN with what ran in it; what is after the last mark is left out."""
    steps: list[tuple[str, list[Execution]]] = []
    waiting: list[Execution] = []
    for line in map(str.strip, lines):
        if line.startswith(MARK):
            step = line.removeprefix(MARK)
            steps.append((step, waiting))
            waiting = []
            if step == BEGIN:
                steps.clear()
        elif execution := executed(line):
            waiting.append(execution)
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
