"""One rival in its own process: reads requests from stdin, answers on stdout, a JSON line each.

    {"prepare": {"model", "folder", "dtype", "threads", "packages", "output": FILE}}
        -> {"prepare_seconds", "first_call_seconds", "versions"}, the first output in FILE
        or {"unsupported": SENTENCE}
    {"run": CALLS, "warm_up": CALLS}
        -> {"seconds": [...]}

End of stdin ends the process, so a parent that dies leaves none behind.
"""

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

from . import UnsupportedError
from .model import load_job
from .turns import run

Call = Callable[[], Tensor]


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

    start = perf_counter()
    call = rival.prepare(network, image, getattr(torch, dtype), threads)
    prepared = perf_counter()
    first = call()
    called = perf_counter()

    torch.save(first.float(), output)
    versions = {name: sys.modules[name].__version__ for name in ("torch", *packages)}
    return call, {
        "prepare_seconds": prepared - start,
        "first_call_seconds": called - prepared,
        "versions": versions,
    }


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
            else:
                answer = {"seconds": run(call, request["run"], request["warm_up"])}
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    with torch.no_grad():
        serve(importlib.import_module(sys.argv[1]))
