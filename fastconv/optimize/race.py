"""Functions timed in turn, so that what else the machine does falls on all of them.

They share a process and its threads, so they need none of the pauses of 50 ms a turn by which
fastconv.peers.turns lets threads of other pools come to rest: a sample here takes 0.2 ms.
"""

import statistics
import time
from collections.abc import Callable, Sequence

SHORTEST = 2e-4  # seconds of a sample: a thousand times the clock's 0.05 us and its call
FEWEST, MOST = 5, 50  # rounds
LONG = 10  # times the seconds asked for: a race that may end early takes no more, but for a round


def race(rivals: Sequence[Callable[[], object]], seconds: float, clear: float = 0.0) -> list[float]:
    """Seconds a call of each, from medians over rounds in which all run one after the other.

    It takes about `seconds`, more only where the fewest rounds do. The times of the others are
    those of the first multiplied by the median of the ratios of their rounds. With `clear` it ends
    early where the first takes less than that share of the time of each other, by the fewest
    rounds or, where these take long, by what there is.
    """
    start = time.perf_counter()
    calls = 1

    def turn() -> list[float]:
        return [_sample(rival, calls) for rival in rivals]

    def may_end() -> bool:
        spent = _since(start)
        if not clear or (len(rounds) < FEWEST and spent < seconds):
            return False
        return spent > LONG * seconds or all(r * clear > 1 for r in _ratios(rounds)[1:])

    warm = turn()  # the first calls, in which plans are made
    while max(warm) * calls < SHORTEST and _since(start) < seconds / 4:
        calls *= 2
        warm = turn()
    rounds = [warm]
    if not may_end():
        rounds = []
        while len(rounds) < FEWEST or (len(rounds) < MOST and _since(start) < seconds):
            rounds.append(turn())
            if may_end():
                break
    first = statistics.median(times[0] for times in rounds)
    return [first * ratio for ratio in _ratios(rounds)]


def _ratios(rounds: Sequence[Sequence[float]]) -> list[float]:
    """The time of each rival as a multiple of the first's."""
    return [
        statistics.median(times[i] / times[0] for times in rounds) for i in range(len(rounds[0]))
    ]


def _since(start: float) -> float:
    return time.perf_counter() - start


def _sample(call: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls
