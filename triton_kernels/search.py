"""The search for faster settings of the launches of one call, by measuring.

One setting after the other takes the value that is the fastest with the others as they are by then.
A candidate counts only if its result is the default's, up to the order of sums, and the winner must
beat the default once more, timed in turn with it.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import triton
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastconv import kept
from fastconv.progress import Progress, silent
from fastconv.triton_kernels._kernel import Kernel, architecture, is_traced, processors
from fastconv.triton_kernels._settings import SPACES, Bucket
from fastconv.triton_kernels._tuned import Row, is_trial, keep, name_of, rows_on, trial

_log = logging.getLogger("fastconv")

Clock = Callable[[Callable[[], Any]], float]  # microseconds of a call

# Less may be chance: the same kernel, timed anew, differs by a percent or two.
LEAST_GAIN = 0.03
ROUNDS = 3  # of the winner and the default in turn; their medians decide
# Of the largest value: as far as two results may be apart that bench/gpu each allows half of that
# from float64.
ROUNDINGS = 64


@dataclass(frozen=True)
class Found:
    """What a search came to for a bucket, and how many candidates it tried for that."""

    bucket: Bucket
    default: Any
    row: Row
    tried: int  # candidates that differ from each other in what is launched
    unfit: int  # of these, those that did not compile or did not fit into shared memory
    wrong: int  # and those with another result


def microseconds(call: Callable[[], Any]) -> float:
    """The median time of a call on a GPU, with the L2 cache cleared before each."""
    return 1e3 * triton.testing.do_bench(call, return_mode="median")


def asked_by(kernel: Kernel, arguments: Sequence[Any]) -> list[Bucket]:
    """The buckets that a call asks settings for, each once; nothing is launched."""
    with trial() as now:
        kernel.plan(*arguments)
    return list(dict.fromkeys(now.asked))


def search(
    kernel: Kernel,
    arguments: Sequence[Any],
    bucket: Bucket,
    clock: Clock | None = None,
    progress: Progress = silent,
) -> Found:
    """Finds the settings of a bucket that kernel(*arguments) asks for, on their device.

    The other buckets of the call, those already tuned among them, stay as they are.
    """
    device = arguments[0].device
    # A clock's events are of the current device.
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        return _Search(kernel, arguments, bucket, clock or microseconds).run(progress)


class _Search:
    """The search for one bucket."""

    def __init__(
        self, kernel: Kernel, arguments: Sequence[Any], bucket: Bucket, clock: Clock
    ) -> None:
        self.kernel, self.arguments, self.bucket, self.clock = kernel, arguments, bucket, clock
        self.space = SPACES[bucket.space]
        self.expected = self.call(self.space.default)
        self.seen = [self.launches(self.space.default)]
        self.unfit = self.wrong = 0

    def call(self, settings: Any) -> Any:
        with trial({self.bucket: settings}):
            return self.kernel.function(*self.arguments)

    def time(self, settings: Any) -> float:
        with trial({self.bucket: settings}):
            return self.clock(lambda: self.kernel.function(*self.arguments))

    def launches(self, settings: Any) -> list[Any]:
        """All that settings may change of the launches."""
        device = self.arguments[0].device
        with trial({self.bucket: settings}):
            launches = self.kernel.plan(
                *self.arguments, architecture=architecture(device), processors=processors(device)
            )
        return [
            (launch.kernel, launch.grid, _numbers(launch.arguments), launch.options)
            for launch in launches
        ]

    def run(self, progress: Progress) -> Found:
        default = best = self.space.default
        least, steps, done = self.time(default), self.space.steps(), 0
        for field in self.space.others:
            for settings in self.space.like(best, field):
                progress(str(self.bucket), done / steps)
                done += 1
                if (time := self.of_candidate(settings)) is not None and time < least:
                    best, least = settings, time
        row = self.confirmed(best) if best != default else Row(default, least, least)
        return Found(self.bucket, default, row, len(self.seen) - 1, self.unfit, self.wrong)

    def of_candidate(self, settings: Any) -> float | None:
        """Its time; None where it launches nothing new, does not run or computes otherwise."""
        launches = self.launches(settings)
        if launches in self.seen:
            return None
        self.seen.append(launches)
        try:
            result = self.call(settings)
        except torch.AcceleratorError:
            raise  # the GPU itself failed, and nothing will run there any more
        except (triton.TritonError, RuntimeError) as error:
            self.unfit += 1
            _log.debug("%s does not run with %s: %s", self.bucket, settings, error)
            return None
        if not _agree(result, self.expected):
            self.wrong += 1
            _log.warning("%s computes something else with %s", self.bucket, settings)
            return None
        return self.time(settings)

    def confirmed(self, best: Any) -> Row:
        """The row of the winner, or of the default where it does not win again."""
        default = self.space.default
        times = [(self.time(default), self.time(best)) for _ in range(ROUNDS)]
        of_default, of_best = (median(column) for column in zip(*times, strict=True))
        if of_best > (1 - LEAST_GAIN) * of_default:
            return Row(default, of_default, of_default)
        return Row(best, of_best, of_default)


def _numbers(arguments: Sequence[Any]) -> list[Any]:
    return [a for a in arguments if isinstance(a, (int, float, str))]


def _agree(result: Any, expected: Any) -> bool:
    """Whether two results are the same up to roundings, infinities and NaN included."""
    return all(
        _close(a, e) for a, e in zip(tree_leaves(result), tree_leaves(expected), strict=True)
    )


def _close(actual: Tensor, expected: Tensor) -> bool:
    if not expected.is_floating_point():
        return torch.equal(actual, expected)
    finite = expected[expected.isfinite()].abs().float()
    bound = ROUNDINGS * torch.finfo(expected.dtype).eps
    absolute = bound * float(finite.max()) if finite.numel() else 0.0
    return torch.allclose(
        actual.float(), expected.float(), rtol=bound, atol=absolute, equal_nan=True
    )


def missing(buckets: Sequence[Bucket], device: torch.device) -> list[Bucket]:
    """Those without a row on a device."""
    rows = rows_on(device)
    return [bucket for bucket in dict.fromkeys(buckets) if bucket not in rows]


def run_tuned(kernel: Kernel, arguments: Sequence[Any]) -> Any:
    """kernel(*arguments); before the first call of a bucket on this machine its settings are found.

    What cannot be tuned keeps its default for the process, and the log says why.
    """
    device = arguments[0].device
    if name_of(device) is None or is_trial() or is_traced() or _is_captured(device):
        return kernel.function(*arguments)
    with trial() as now:
        result = kernel.function(*arguments)
    buckets = missing(now.asked, device)
    if not buckets:
        return result
    try:
        for bucket in buckets:
            _log.info("searching settings for %s, once", bucket)
            found = search(kernel, arguments, bucket)
            _log.info("%s: %s", bucket, found.row)
            _keep_if_possible(device, found)
    except torch.AcceleratorError:
        raise
    except (triton.TritonError, RuntimeError) as error:
        _log.warning("%s is not tuned: %s", kernel.name, error)
        defaults = (Row(SPACES[bucket.space].default, 0.0, 0.0) for bucket in buckets)
        rows_on(device).update(zip(buckets, defaults, strict=True))
    return kernel.function(*arguments)


def _keep_if_possible(device: torch.device, found: Found) -> None:
    try:
        keep(device, {found.bucket: found.row})
    except OSError as error:  # which costs only the next process a search
        kept.warn_once(f"tuned settings are not kept: {error}")


def _is_captured(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured, which no timing may be part of."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
