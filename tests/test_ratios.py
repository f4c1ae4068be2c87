"""Medians of ratios and the intervals around them."""

import random

import pytest

from fastconv.peers.ratios import median_interval, median_ratio


def test_ratios_are_taken_within_each_round():
    assert median_ratio([8.0, 1.0, 30.0], [4.0, 0.5, 10.0]) == 2.0
    with pytest.raises(ValueError, match="shorter"):
        median_ratio([1.0, 2.0], [1.0])


@pytest.mark.parametrize(("count", "rank"), [(6, 1), (9, 2), (12, 3), (20, 6), (50, 18)])
def test_the_interval_has_the_ranks_of_the_sign_test(count, rank):
    """The ranks that tables of the sign test give for 95 %."""
    values = list(range(1, count + 1))
    random.Random(0).shuffle(values)
    assert median_interval(values) == (rank, count + 1 - rank)


def test_too_few_values_have_no_interval():
    assert median_interval([1.0] * 5) is None
    assert median_interval([]) is None
    assert median_interval([1.0] * 5, confidence=0.9) == (1.0, 1.0)


def test_the_interval_holds_the_median_as_often_as_it_says():
    chance = random.Random(0)
    held = 0
    for _ in range(2000):
        low, high = median_interval([chance.expovariate(1.0) for _ in range(15)])
        held += low <= 0.6931 <= high  # ln 2, this distribution's median
    assert 0.95 < held / 2000 < 0.98  # 15 values: 96.5 %
