"""Timing rivals in turn, A B C, C B A, A B C, a few calls a turn, one process at work at a time.

So every rival meets the machine's good and bad moments alike, and none always follows the same
neighbour.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Protocol

from fastconv.progress import Progress

TURN_SECONDS = 0.1
WARM_UP_CALLS = 2  # at the head of a turn; the first call after a pause takes 5 to 25 % longer
MIN_ROUNDS = 6  # fewer have no interval of 95 % around their median
# Threads of onnxruntime and OpenMP go on spinning after a call. Measured on 2 cores, Zen 5,
# efficientnet_lite0, batch 1: torch's first call after a turn of onnxruntime took 30 ms at once,
# 26 ms after 20 ms, 15 ms after 50 ms and after 100 ms. Without spinning onnxruntime is slower.
PAUSE_SECONDS = 0.05


Turn = list[float]  # the seconds of each call


def run(
    call: Callable[[], object],
    calls: int,
    warm_up: int,
    before: Callable[[], object] | None = None,
) -> Turn:
    """The seconds of each of `calls` calls, after some that do not count.

    before: called, outside the clock, before each that counts.
    """
    for _ in range(warm_up):
        call()
    seconds = []
    for _ in range(calls):
        if before is not None:
            before()
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


class Runner(Protocol):
    def run(self, calls: int, warm_up: int) -> Turn:
        """Seconds of each of `calls` calls; empty when the runner failed, now or before."""


def rounds_in_turn(
    runners: Sequence[Runner],
    seconds: float,
    progress: Progress,
    turn_seconds: float = TURN_SECONDS,
    least: int = MIN_ROUNDS,
) -> Iterator[list[Turn]]:
    """Each round: a turn for each runner. Goes on for `seconds`, and for `least` rounds."""
    calls = [1] * len(runners)
    began = time.perf_counter()
    order = list(range(len(runners)))
    count = -1  # the first round finds how many calls fill a turn, and is not kept
    while count < least or time.perf_counter() - began < seconds:
        progress("timing in turn", min(1.0, (time.perf_counter() - began) / seconds))
        turns: list[Turn] = [[] for _ in runners]
        for index in order:
            turns[index] = taken = runners[index].run(calls[index], WARM_UP_CALLS)
            if taken:
                calls[index] = max(2, min(100, round(turn_seconds / median(taken))))
                time.sleep(PAUSE_SECONDS)
        if not any(turns):
            return
        if count >= 0:
            yield turns
        count += 1
        order.reverse()


def time_in_turn(runners: Sequence[Runner], seconds: float, progress: Progress) -> list[list[Turn]]:
    """For each runner, for each round, its turn; a runner that fails has fewer rounds."""
    rounds = list(rounds_in_turn(runners, seconds, progress))
    return [[turns[index] for turns in rounds if turns[index]] for index in range(len(runners))]
