"""Our kernels and their rivals on layers of networks: every row checked, then timed in turn.

    pytest bench                                 a representative choice: bench/quick.py
    pytest bench -k depthwise --benchmark-compare
    pytest bench --network mobilenet_v2 --batch 16 --dtype bfloat16
    pytest bench -k pointwise --rival torch --rival fastconv --variants

A group is an op, direction, dtype, layout and shape; its rows are ours and the rivals. Every rival
of a shape runs in a process of its own, in turn with the others; `bench.clock` says how
pytest-benchmark gets the times.
"""

import pytest

from bench import clock
from bench.kernels import row


def test_kernel(benchmark, session, case, racer):
    benchmark.group = " ".join((case.op, case.direction, case.dtype_name, racer.layout, case.shape))
    result = session.result(case)
    rival = result.rivals[racer]
    if rival.status == "skipped":
        pytest.skip(rival.reason)
    if rival.status != "ok":
        pytest.fail(f"{racer} is {rival.status}: {rival.reason}", pytrace=False)
    seconds = [call for turn in result.turns.get(racer, []) for call in turn]
    if session.roofs:
        benchmark.extra_info.update(row(case, racer, result, session.roofs))
    played = iter(seconds)
    benchmark.pedantic(lambda: clock.advance(next(played, 0.0)), rounds=max(1, len(seconds)))
