"""The choice for a call on the machine at hand."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastconv import _C
from fastconv.dispatch import state
from fastconv.dispatch.call import Call
from fastconv.dispatch.choice import KERNEL_DTYPES, Choice, choose
from fastconv.dispatch.machine import this_machine
from fastconv.dispatch.measured import measured_rows


def needs_reference(input: Tensor) -> bool:
    """Whether the dispatcher cannot reach a kernel: what every call can afford of the choice."""
    return input.dtype not in KERNEL_DTYPES or forward_ad._current_level >= 0


def refused(input: Tensor) -> bool:
    """Whether the kernels that the dispatcher has for input's GPU cannot run on that GPU."""
    if not input.is_cuda or _C.gpu.way() is None:
        return False
    return this_machine(input.device.index).why_no_cuda != ""


def decide(op: str, arguments: Sequence[Any]) -> Choice:
    """The choice for op on these arguments, here and now."""
    device = arguments[0].device.index
    return _decide(Call.of(op, arguments), device, state.forced(), _C.gpu.way())


@lru_cache(maxsize=4096)  # a network makes hundreds of different calls, again and again
def _decide(call: Call, device: int | None, forced: str, _way: str | None) -> Choice:
    machine = this_machine(device if call.device == "cuda" else None)
    return choose(call, machine, forced, measured_rows())


# Without measurements the dispatcher's own order is the default order, and costs nothing.
if measured_rows().rows and torch.version.cuda is not None:
    state.choose_always()
