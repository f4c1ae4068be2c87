"""What oneDNN ran for torch, as its own log tells it."""

import ctypes
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch


class Execution(NamedTuple):
    """One primitive that oneDNN ran."""

    kind: str
    implementation: str
    ms: float
    problem: str


def implementations(call: Callable[[], object]) -> Counter[str]:
    """How often a call ran each of oneDNN's implementations, as 'convolution jit_dw:avx512_core'.

    oneDNN writes to the process's standard output, which is a file for as long as that takes.
    The log slows what it tells of: nothing is timed here.
    """
    flush = ctypes.CDLL(None).fflush
    flush(None)
    with tempfile.TemporaryFile() as log:
        output = os.dup(1)
        os.dup2(log.fileno(), 1)
        try:
            with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
                call()
        finally:
            flush(None)
            os.dup2(output, 1)
            os.close(output)
        log.seek(0)
        return parse(log.read().decode(errors="replace"))


def parse(log: str) -> Counter[str]:
    """Counts the primitives that a log says were executed."""
    found = filter(None, map(executed, log.splitlines()))
    return Counter(f"{execution.kind} {execution.implementation}" for execution in found)


def executed(line: str) -> Execution | None:
    """What a line of the log says was executed, None for what says something else.

    A line is onednn_verbose,v1,primitive,exec,ENGINE,KIND,IMPLEMENTATION,PROPAGATION,MEMORY,
    ATTRIBUTES,ALGORITHM,PROBLEM,MILLISECONDS; see "Verbose Mode" in oneDNN's documentation.
    """
    fields = line.strip().split(",")
    if fields[:1] != ["onednn_verbose"] or fields[2:4] != ["primitive", "exec"]:
        return None
    return Execution(fields[5], fields[6], float(fields[-1]), fields[-2])
