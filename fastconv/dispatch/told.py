"""Tells the log and the listeners which backend serves a call on a GPU, and why."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from fastconv.dispatch.choice import Choice

_log = logging.getLogger("fastconv")
_said: set[tuple[str, Choice]] = set()
_listeners: list[Callable[[str, Tensor, Choice], None]] = []


def tell(op: str, input: Tensor, choice: Choice) -> None:
    """To every listener, and where there is a reason once to the log, at INFO."""
    for listener in _listeners:
        listener(op, input, choice)
    if choice.reason and (op, choice) not in _said:
        _said.add((op, choice))
        served = "its reference" if choice.backend == "reference" else f"on {choice.backend}"
        _log.info("%s runs %s: %s", op, served, choice.reason)


@contextmanager
def listen(listener: Callable[[str, Tensor, Choice], None]) -> Iterator[None]:
    """Calls listener(op, input, choice) for every call told of within the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
