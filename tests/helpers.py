"""What the tests of all ops share: layouts, error bounds, and the two ways to compare."""

import runpy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

import fastconv

ROOT = Path(__file__).parents[1]
SETUP = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
MATRIX_ISAS = fastconv._C.isas()  # for products of bfloat16
ISAS = [name for name in MATRIX_ISAS if name != "amx_emulated"]
ACTIVATIONS = [None, "relu", "relu6", "silu", "hardswish"]


def contiguous(x: Tensor) -> Tensor:
    return x.contiguous()


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def permuted(x: Tensor) -> Tensor:
    """The same values, width and height swapped in memory."""
    return x.transpose(2, 3).contiguous().transpose(2, 3)


def sliced(x: Tensor) -> Tensor:
    """The same values, every other element of a wider tensor at an odd offset."""
    wide = torch.full((*x.shape[:-1], 2 * x.shape[-1] + 1), float("nan"), dtype=x.dtype)
    wide[..., 1::2] = x
    return wide[..., 1::2]


def expanded(x: Tensor) -> Tensor:
    """The first image repeated by stride 0; other values than x where the batch is above 1."""
    return x[:1].expand(x.shape)


LAYOUTS = [contiguous, channels_last, permuted, sliced, expanded]


def assert_close(actual: Tensor, expected: Tensor, terms: int = 1, scale: float = 1.0) -> None:
    """actual against a float64 expectation: terms roundings of sums whose parts are up to scale.

    One after the other, n terms of random sign make sums of sqrt(n) whose n roundings add up to
    about n / 4 eps; few terms are allowed 4 sqrt(n). The result is rounded once into its dtype.
    """
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    compute = torch.float64 if actual.dtype == torch.float64 else torch.float32
    bound = scale * (4 * (terms + 1) ** 0.5 + terms / 4) * torch.finfo(compute).eps
    bound = bound + torch.finfo(actual.dtype).eps * expected.abs()
    error = (actual.double() - expected).abs()
    wrong = ~((error <= bound) | (actual.double() == expected))
    wrong &= ~(actual.isnan() & expected.isnan())
    assert not wrong.any(), (
        f"{int(wrong.sum())} of {wrong.numel()} values off, first at "
        f"{tuple(wrong.nonzero()[0].tolist())}: {actual[wrong][0].item()} for "
        f"{expected[wrong][0].item()}, largest error {error[wrong].max().item():.3g}"
    )


@contextmanager
def isa(name: str) -> Iterator[None]:
    before = fastconv._C.isa()
    fastconv._C.force_isa(name)
    try:
        yield
    finally:
        fastconv._C.force_isa(before)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def assert_same_bits_on_any_threads(function: Callable[[], Tensor | tuple[Tensor, ...]]) -> None:
    """function() gives the same bits on 1, 2, 3 and 7 threads."""
    results = []
    for count in (1, 2, 3, 7):
        with threads(count):
            result = function()
        results.append(result if isinstance(result, tuple) else (result,))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def variant_counts() -> dict[str, int]:
    return {f"{op}.{name}": count for op, name, _, count in fastconv._C.variants()}


@contextmanager
def reaches(variant: str) -> Iterator[None]:
    """Asserts that the block ran the named kernel variant, e.g. 'residual_add.same_size'."""
    before = variant_counts()[variant]
    yield
    assert variant_counts()[variant] > before, f"{variant} was not reached"


def unboxed(said: str) -> str:
    """An error of the command line on one line, without the box that is drawn around it."""
    return " ".join(said.replace("\u2502", " ").split())


def cpu_times(calls: list[Callable[[], object]]) -> list[float]:
    """The least seconds of this thread's processor that each takes, in turn: others on the machine
    only ever add to them."""
    least = [float("inf")] * len(calls)
    for _ in range(15):
        for i, call in enumerate(calls):
            start = time.thread_time()
            for _ in range(5):
                call()
            least[i] = min(least[i], time.thread_time() - start)
    return least
