"""How many times as fast one rival is as another, and how sure that is."""

import math
import statistics
from collections.abc import Sequence

CONFIDENCE = 0.95


def median_ratio(theirs: Sequence[float], own: Sequence[float]) -> float:
    """How often as fast `own` is, taken within each round."""
    return statistics.median(ratios(theirs, own))


def ratios(theirs: Sequence[float], own: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(theirs, own, strict=True)]


def median_interval(
    values: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, float] | None:
    """Two of the values between which their true median lies with this confidence.

    By order statistics (David and Nagaraja, Order Statistics, section 7.1): the median is below the
    k-th smallest of n independent values only where fewer than k of them fell below it, so the
    binomial distribution gives the chance, whatever the values' own distribution.
    None where there are too few values: 95 % takes 6.
    """
    count = len(values)
    chance, rank = 2 * 0.5**count, 0  # of both tails, and the rank whose tail has that chance
    while chance <= 1 - confidence:
        rank += 1
        chance += 2 * math.comb(count, rank) * 0.5**count
    if rank == 0:
        return None
    ordered = sorted(values)
    return ordered[rank - 1], ordered[-rank]
