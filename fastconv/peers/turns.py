"""Timing rivals in turn, A B C, C B A, A B C, a few calls a turn, one process at work at a time.

So every rival meets the machine's good and bad moments alike, and none always follows the same
neighbour.
"""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from fastconv.progress import Progress

TURN_SECONDS = 0.1
WARM_UP_CALLS = 2  # at the head of a turn; the first call after a pause takes 5 to 25 % longer
MIN_ROUNDS = 3
# Threads of onnxruntime and OpenMP go on spinning after a call. Measured on 2 cores, Zen 5,
# efficientnet_lite0, batch 1: torch's first call after a turn of onnxruntime took 30 ms at once,
# 26 ms after 20 ms, 15 ms after 50 ms and after 100 ms. Without spinning onnxruntime is slower.
PAUSE_SECONDS = 0.05


def run(call: Callable[[], object], calls: int, warm_up: int) -> list[float]:
    """The seconds of each of `calls` calls, after some that do not count."""
    for _ in range(warm_up):
        call()
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


class Runner(Protocol):
    def run(self, calls: int, warm_up: int) -> list[float]:
        """Seconds of each of `calls` calls; empty when the runner failed, now or before."""


def time_in_turn(
    runners: Sequence[Runner], seconds: float, progress: Progress
) -> list[list[list[float]]]:
    """For each runner, for each round, the seconds of each call.

    Rounds go on for `seconds`, and for MIN_ROUNDS at least. A runner that fails has fewer rounds.
    """
    calls = [1] * len(runners)
    times: list[list[list[float]]] = [[] for _ in runners]
    began = time.perf_counter()
    order = list(range(len(runners)))
    # The first round finds how many calls fill a turn, and is not kept.
    finding = True
    while finding or max(map(len, times)) < MIN_ROUNDS or time.perf_counter() - began < seconds:
        progress("timing in turn", min(1.0, (time.perf_counter() - began) / seconds))
        for index in order:
            taken = runners[index].run(calls[index], WARM_UP_CALLS)
            if not taken:
                continue
            if not finding:
                times[index].append(taken)
            calls[index] = max(2, min(100, round(TURN_SECONDS / min(taken))))
            time.sleep(PAUSE_SECONDS)
        finding = False
        order.reverse()
    return times
