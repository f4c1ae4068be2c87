"""What a call costs beside its kernel: ops on an input so small that the kernel takes no time."""

from collections.abc import Callable

import torch

from bench.goals.figures import Figure, Row, worst
from bench.goals.timing import in_turn
from fastconv import ops

CALLS = 100  # a function, so that the clock's own cost does not show


def tiny_calls() -> dict[str, Callable[[], object]]:
    """Each op on an image of 8 channels and 8 by 8 pixels."""
    x = torch.randn(1, 8, 8, 8).contiguous(memory_format=torch.channels_last)
    depthwise, pointwise = torch.randn(8, 1, 3, 3), torch.randn(8, 8, 1, 1)
    bias = torch.randn(8)
    return {
        "depthwise_conv2d": lambda: ops.depthwise_conv2d(x, depthwise, bias, 1, 1, 1, "relu6"),
        "pointwise_conv2d": lambda: ops.pointwise_conv2d(x, pointwise, bias, None, 1, "relu6"),
        "residual_add": lambda: ops.residual_add(x, x, "relu"),
        "local_response_norm": lambda: ops.local_response_norm(x, 5),
        "separable_conv2d": lambda: ops.separable_conv2d(
            x, depthwise, bias, pointwise, bias, padding=1
        ),
        "inverted_residual": lambda: ops.inverted_residual(
            x, pointwise, bias, depthwise, bias, pointwise, bias, padding=1
        ),
    }


def many(call: Callable[[], object]) -> Callable[[], None]:
    def calls() -> None:
        for _ in range(CALLS):
            call()

    return calls


def measure(seconds: float) -> list[Figure]:
    calls = {name: many(call) for name, call in tiny_calls().items()}
    times = in_turn(seconds, **calls)
    microseconds = {name: 1e6 * min(turns) / CALLS for name, turns in times.items()}
    return [worst("at most", microseconds, 5.0, "us", at_most=True)]


ROWS = [Row("overhead", "overhead a call", "<= 5 us over the bare kernel", measure)]
