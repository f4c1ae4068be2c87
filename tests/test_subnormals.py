"""Subnormal numbers do not slow the kernels, and the state of the caller is as before."""

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastconv import ops
from tests.helpers import channels_last, threads

SMALLEST_NORMAL = torch.finfo(torch.float32).tiny


def block(x: Tensor) -> Tensor:
    expand, project = torch.ones(64, 32, 1, 1), torch.ones(32, 64, 1, 1)
    filters = torch.ones(64, 1, 3, 3)
    return ops.inverted_residual(x, expand, None, filters, None, project, None, padding=1)


OPS: dict[str, Callable[[Tensor], Tensor]] = {
    "pointwise_conv2d": lambda x: ops.pointwise_conv2d(x, torch.ones(48, 32, 1, 1)),
    "depthwise_conv2d": lambda x: ops.depthwise_conv2d(x, torch.ones(32, 1, 3, 3), padding=1),
    "dense_conv2d": lambda x: ops.dense_conv2d(x, torch.ones(32, 32, 3, 3), padding=1),
    "residual_add": lambda x: ops.residual_add(x, x),
    "local_response_norm": lambda x: ops.local_response_norm(x, 5),
    "inverted_residual": block,
}


def images(value: float) -> Tensor:
    return channels_last(torch.full((4, 32, 28, 28), value))


def keeps_subnormals() -> bool:
    """Whether torch, on all its threads, still computes with subnormal numbers."""
    return bool((torch.full((1 << 20,), SMALLEST_NORMAL) * 0.25 != 0).all())


@pytest.mark.parametrize("op", OPS)
def test_results_are_zero_or_close(op):
    with torch.no_grad():
        y = OPS[op](images(SMALLEST_NORMAL / 4)).double()
        exact = OPS[op](images(1.0)).double() * (SMALLEST_NORMAL / 4)
    if op == "inverted_residual":  # the weights are all ones: linear up to the activation
        assert y.min() >= 0
    else:
        assert ((y == 0) | ((y - exact).abs() <= exact.abs())).all()


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("count", [1, 2])
def test_the_state_of_the_caller_is_as_before(op, count):
    with torch.no_grad(), threads(count):
        assert keeps_subnormals()
        OPS[op](images(SMALLEST_NORMAL / 4))
        assert keeps_subnormals()
        if not torch.set_flush_denormal(True):
            pytest.skip("this processor cannot flush")
        try:
            OPS[op](images(1.0))
            assert torch.tensor(SMALLEST_NORMAL) * 0.25 == 0
        finally:
            torch.set_flush_denormal(False)


@pytest.mark.parametrize("op", OPS)
def test_they_do_not_slow_the_kernels(op):
    def seconds(x: Tensor) -> float:
        start = time.perf_counter()
        OPS[op](x)
        return time.perf_counter() - start

    small, normal = images(SMALLEST_NORMAL / 4), images(1.0)
    with torch.no_grad(), threads(1):
        pairs = [(seconds(small), seconds(normal)) for _ in range(20)]
    # Arithmetic on subnormal numbers was seen to take 10 times as long.
    assert min(s for s, _ in pairs) < 4 * min(n for _, n in pairs)
