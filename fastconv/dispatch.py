"""Which backend serves a call, and why: a pure function of the tensor and the state of torch."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import forward_ad

KERNEL_DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})

_log = logging.getLogger("fastconv")
_said: set[tuple[str, str]] = set()
_listeners: list[Callable[[str, Tensor, str], None]] = []


@dataclass(frozen=True)
class Choice:
    """A backend, 'cpu' or 'reference', and in words why not a kernel of ours, if so."""

    backend: str
    reason: str = ""


def choose(input: Tensor) -> Choice:
    """The backend that serves an op whose first argument is input."""
    if input.dtype not in KERNEL_DTYPES:
        return Choice("reference", f"no kernel for {input.dtype}")
    if forward_ad._current_level >= 0:
        return Choice("reference", "forward-mode differentiation takes torch's own formulas")
    if input.device.type != "cpu":
        return Choice("reference", f"no kernel for device '{input.device.type}' in this build")
    return Choice("cpu")


def needs_reference(input: Tensor) -> bool:
    """Whether the dispatcher cannot reach a kernel: what every call can afford of choose."""
    return input.dtype not in KERNEL_DTYPES or forward_ad._current_level >= 0


def fell_back(op: str, input: Tensor) -> None:
    """Tells the log, once at INFO, and every listener that the reference serves op, and why."""
    reason = choose(input).reason
    for listener in _listeners:
        listener(op, input, reason)
    if (op, reason) not in _said:
        _said.add((op, reason))
        _log.info("%s runs its reference: %s", op, reason)


@contextmanager
def listen(listener: Callable[[str, Tensor, str], None]) -> Iterator[None]:
    """Calls listener(op, input, reason) for every fell_back within the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
