"""The clock that pytest-benchmark reads in bench/: it shows what the rivals' processes measured.

A rival is timed in its own process and in turn with the others (fastconv/peers). Its test plays
those calls back: each moves this clock by as much as the call took.
"""

_now = 0.0


def read() -> float:
    return _now


def advance(seconds: float) -> None:
    global _now
    _now += seconds
