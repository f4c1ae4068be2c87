"""Calls of one process timed in turn, and what their times say."""

from collections.abc import Callable, Mapping
from statistics import median

import torch
from torch import Tensor

from fastconv.peers.ratios import median_ratio
from fastconv.peers.turns import run, time_in_turn
from fastconv.probe import Probe
from fastconv.progress import silent

Times = Mapping[str, list[float]]


class Call:
    """A function in the form that time_in_turn takes."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function

    def run(self, calls: int, warm_up: int) -> list[float]:
        return run(self.function, calls, warm_up)


def in_turn(seconds: float, **functions: Callable[[], object]) -> Times:
    """The median seconds of each function in each round."""
    times = time_in_turn([Call(f) for f in functions.values()], seconds, silent)
    return {
        name: [median(turn) for turn in turns] for name, turns in zip(functions, times, strict=True)
    }


def speedup(times: Times, rival: str, ours: str = "ours") -> float:
    """How often as fast ours is as the rival, the median over rounds."""
    return median_ratio(times[rival], times[ours])


def share(times: Times, work: float, probe: Probe, ours: str = "ours") -> float:
    """Ours at `work` a call as a share of the probe's rate, the median over rounds."""
    return work / probe.work * speedup(times, "probe", ours)


def check(output: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Raises where output is further than tolerance, of the largest value, from what is right."""
    error = (output.float() - expected.float()).abs().max() / expected.float().abs().max()
    if not error <= tolerance:
        raise AssertionError(f"differs from torch by {error:.2g} of the largest value")


def nhwc(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)
