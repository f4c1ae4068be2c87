"""The machine that was measured on, and work in a process of its own."""

from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from typing import Any

import torch

import fastconv
from fastconv.machine import cores, processor_name


def machine() -> dict[str, Any]:
    return {
        "processor": processor_name(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "isa": fastconv._C.isa(),
        "torch": torch.__version__,
        "fastconv": fastconv.__version__,
        "date": date.today().isoformat(),
    }


def in_own_process(function: Any, *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
