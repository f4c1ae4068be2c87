"""Functions timed in turn on a GPU, by replays of CUDA graphs."""

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch

ROUNDS = 15
Seconds = dict[str, list[float]]


class Graph:
    """`call(i)` for i in range(sets), captured; a replay runs all of them."""

    def __init__(self, call: Callable[[int], object], sets: int) -> None:
        self.sets = sets
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # cuDNN and inductor choose their kernels
                for i in range(sets):
                    call(i)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.results = [call(i) for i in range(sets)]

    def seconds(self) -> float:
        """Of one call, the mean over a replay."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        self.graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3 / self.sets


class Calls:
    """In place of a Graph where there is no GPU."""

    def __init__(self, call: Callable[[int], object], sets: int) -> None:
        self.call, self.sets = call, sets

    def seconds(self) -> float:
        began = time.perf_counter()
        for i in range(self.sets):
            self.call(i)
        return (time.perf_counter() - began) / self.sets


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


def kernels(function: Callable[[], object]) -> list[str]:
    """The names of the kernels that a call launches, in order."""
    from torch.profiler import ProfilerActivity, profile

    function()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        function()
        torch.cuda.synchronize()
    events = [event for event in profiled.events() if event.device_type.name == "CUDA"]
    return [event.name for event in sorted(events, key=lambda event: event.time_range.start)]
