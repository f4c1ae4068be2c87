"""Functions timed in turn, so that what else the machine does falls on all of them."""

import statistics
import time
from collections.abc import Callable, Sequence

SHORTEST = 2e-4  # seconds of a sample: a thousand times the clock's 0.05 us and its call
FEWEST, MOST = 5, 50  # rounds


def race(rivals: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """Seconds a call of each, from medians over rounds in which all run one after the other.

    It takes about `seconds`, more only where the fewest rounds do. The times of the others are
    those of the first multiplied by the median of the ratios of their rounds.
    """
    start = time.perf_counter()
    calls = 1
    while True:  # also the first calls, in which plans are made
        longest = max(_sample(rival, calls) for rival in rivals)
        if longest * calls >= SHORTEST or time.perf_counter() - start > seconds / 4:
            break
        calls *= 2
    rounds: list[list[float]] = []
    while len(rounds) < FEWEST or (len(rounds) < MOST and time.perf_counter() - start < seconds):
        rounds.append([_sample(rival, calls) for rival in rivals])
    first = statistics.median(times[0] for times in rounds)
    return [
        first * statistics.median(times[i] / times[0] for times in rounds)
        for i in range(len(rivals))
    ]


def _sample(call: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls
