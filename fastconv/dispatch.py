"""Which backend serves a call, and why: a pure function of the tensor and the state of torch."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import forward_ad

KERNEL_DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})


@dataclass(frozen=True)
class Choice:
    """A backend, 'cpu' or 'reference', and the reason in words."""

    backend: str
    reason: str


def choose(input: Tensor) -> Choice:
    """The backend that serves an op whose first argument is input."""
    if input.dtype not in KERNEL_DTYPES:
        return Choice("reference", f"no kernel for {input.dtype}")
    if forward_ad._current_level >= 0:
        return Choice("reference", "forward-mode differentiation needs torch's own formulas")
    if input.device.type != "cpu":
        return Choice("reference", f"no kernel for device {input.device.type!r} in this build")
    return Choice("cpu", "")


def needs_reference(input: Tensor) -> bool:
    """Whether the dispatcher cannot reach a kernel; the cheap form of choose for every call."""
    return input.dtype not in KERNEL_DTYPES or forward_ad._current_level >= 0
