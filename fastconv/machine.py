"""The machine a number was measured on, in a few words."""

import os
import platform
from collections.abc import Collection
from datetime import date
from pathlib import Path
from typing import Any


def processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """What a file of results says of where and with what it was measured."""
    import torch

    import fastconv

    return {
        "processor": processor_name(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "isa": fastconv._C.isa(),
        "torch": torch.__version__,
        "fastconv": fastconv.__version__,
        "date": date.today().isoformat(),
    }


def difference(
    one: dict[str, Any], other: dict[str, Any], but: Collection[str] = ()
) -> tuple[str, Any, Any] | None:
    """The first name of which two answers of machine() hold two values, and these values."""
    for name in {**one, **other}:
        if name not in but and one.get(name) != other.get(name):
            return name, one.get(name), other.get(name)
    return None
