"""Functions timed in turn on a GPU, by replays of CUDA graphs."""

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch

from fastconv.gpu_probe import Calls, Graph

ROUNDS = 15
Seconds = dict[str, list[float]]


def alone(call: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """What one call gives, and the seconds until it is done."""
    began = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - began


def in_turn(runners: dict[str, Graph | Calls], rounds: int = ROUNDS) -> Seconds:
    """Seconds a call of each in each round, forwards and backwards through them; one round lost."""
    times: Seconds = {name: [] for name in runners}
    order: Sequence[str] = list(runners)
    for count in range(rounds + 1):
        for name in order:
            taken = runners[name].seconds()
            if count > 0:
                times[name].append(taken)
        order = order[::-1]
    return times


def ratio(times: Seconds, rival: str, ours: str) -> float:
    """How often as fast ours is as the rival, the median over rounds."""
    return median(a / b for a, b in zip(times[rival], times[ours], strict=True))


def kernels(function: Callable[[], object]) -> list[str] | None:
    """The names of the kernels that a call launches, in order; None where nothing may trace."""
    from torch.profiler import ProfilerActivity, profile

    function()
    torch.cuda.synchronize()
    try:
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            function()
            torch.cuda.synchronize()
        events = [event for event in profiled.events() if event.device_type.name == "CUDA"]
    except RuntimeError:  # CUPTI, where the machine keeps it from us
        return None
    return [event.name for event in sorted(events, key=lambda event: event.time_range.start)]
