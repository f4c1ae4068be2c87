"""Work in a process of its own, and how the allocator of one that times single layers is set."""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

# Of glibc's malloc (mallopt(3)), for all rivals: freed memory is kept. Else it is returned to the
# system or not by what was freed before, and taken again page by page: torch's relu(x + r) of
# 16x256x56x56 took 17 ms or 4.7, our residual_add 3.3 or 2.9. In a network's course it is there.
KEEPING_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}


def in_own_process(
    function: Any, *arguments: Any, environment: Mapping[str, str] | None = None
) -> Any:
    """What function gives in a new process that starts with these variables besides."""
    with (
        variables(environment or {}),
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
    ):
        return pool.submit(function, *arguments).result()


@contextmanager
def variables(environment: Mapping[str, str]) -> Iterator[None]:
    """Sets variables that processes begun within inherit."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
