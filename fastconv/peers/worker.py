"""One rival in its own process: reads requests from stdin, answers on stdout, a JSON line each.

    {"prepare": {"model", "folder", "dtype", "threads", "packages", "output": FILE}}
        -> {"prepare_seconds", "first_call_seconds", "memory_bytes", "versions"}, the first output
           in FILE; or {"unsupported": SENTENCE}
    {"describe": true}
        -> {"implementations": {NAME: how often a call runs it}}
    {"run": CALLS, "warm_up": CALLS, "cold": whether the caches are emptied before each call}
        -> {"seconds": [...]}

End of stdin ends the process, so a parent that dies leaves none behind.
"""

import functools
import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import UnsupportedError, kernels
from .caches import Evictor
from .model import load_job
from .resident import peak_bytes, resident_bytes
from .turns import run

Call = Callable[[], Tensor]
evictor = functools.cache(Evictor)  # made when first needed: it is large


def prepare(
    rival: ModuleType,
    model: str,
    folder: str,
    dtype: str,
    threads: int,
    packages: list[str],
    output: str,
) -> tuple[Call, dict[str, Any]]:
    torch.set_num_threads(threads)
    network, image = load_job(Path(folder), model)
    before = resident_bytes()

    start = perf_counter()
    call = rival.prepare(network, image, getattr(torch, dtype), threads)
    prepared = perf_counter()
    first = call()
    called = perf_counter()

    torch.save(first.float(), output)
    del first
    peak = peak_bytes(call)
    versions = {name: sys.modules[name].__version__ for name in ("torch", *packages)}
    return call, {
        "prepare_seconds": prepared - start,
        "first_call_seconds": called - prepared,
        "memory_bytes": peak - before if peak and before else None,
        "versions": versions,
    }


def describe(rival: ModuleType, call: Call) -> dict[str, int]:
    """What the rival ran: as its module says, else as the counters of kernels say."""
    return dict(getattr(rival, "implementations", kernels.implementations)(call))


def serve(rival: ModuleType) -> None:
    # Libraries print to stdout as they like; give them stderr and keep the pipe for answers.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            request = json.loads(line)
            answer: dict[str, Any]
            if "prepare" in request:
                try:
                    call, answer = prepare(rival, **request["prepare"])
                except UnsupportedError as reason:
                    answer = {"unsupported": str(reason)}
            elif "describe" in request:
                answer = {"implementations": describe(rival, call)}
            else:
                before = evictor() if request.get("cold") else None
                answer = {"seconds": run(call, request["run"], request["warm_up"], before)}
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    with torch.no_grad():
        serve(importlib.import_module(sys.argv[1]))
