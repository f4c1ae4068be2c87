"""What oneDNN ran for torch, as its own log tells it."""

import ctypes
import os
import tempfile
from collections import Counter
from collections.abc import Callable

import torch


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
    """Counts the primitives that a log says were executed.

    A line is onednn_verbose,v1,primitive,exec,<engine>,<primitive>,<implementation>,...
    """
    fields = (line.split(",") for line in log.splitlines() if line.startswith("onednn_verbose"))
    return Counter(
        f"{f[5]} {f[6]}" for f in fields if len(f) > 6 and f[2:4] == ["primitive", "exec"]
    )
