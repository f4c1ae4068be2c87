"""What the launchers share: registration, layouts, the launch itself."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor
from torch.utils._python_dispatch import _len_torch_dispatch_stack

from fastconv.dispatch import Call, autotunes, triton_limits
from fastconv.layout import memory_format_of

# Triton reads TRITON_INTERPRET where a kernel is declared: a process interprets all or none.
INTERPRETED: bool = triton.knobs.runtime.interpret

HOPPER = 90
H100_PROCESSORS = 132

KERNELS: dict[str, "Kernel"] = {}


@dataclass(frozen=True)
class Launch:
    """A launch as planned: the compiled function, its grid, arguments and options."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What a call would launch on a GPU of so many processors; architecture: 90 for sm_90."""

    architecture: int
    processors: int
    launches: list[Launch]


class Kernel:
    """A launcher, callable as torch.ops.fastconv.<name> is; `run` is the cheapest way to call it.

    A call launches at once and costs no more than Triton's own launch; `op`, of the namespace
    fastconv_triton, is the same as an op that torch.compile sees into.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = function.__name__
        self.function = function
        torch.library.triton_op(f"fastconv_triton::{self.name}", function, mutates_args=())
        self.op = getattr(torch.ops.fastconv_triton, self.name).default
        self.run = self._tuned if autotunes() else function

    def __call__(self, *arguments: Any) -> Any:
        return self.run(*arguments)

    def _tuned(self, *arguments: Any) -> Any:
        """A call that searches where it is the first of its shapes."""
        from fastconv.triton_kernels.search import run_tuned  # which imports this

        return run_tuned(self, arguments)

    def refusal(self, *arguments: Any) -> str:
        """Why this call is not served, in plain words; "" where it is. Meta tensors will do."""
        return triton_limits.why_not(Call.of(self.name, arguments))

    def plan(
        self, *arguments: Any, architecture: int = HOPPER, processors: int = H100_PROCESSORS
    ) -> list[Launch]:
        """The launches of this call, by the shapes, dtypes and strides of its tensors alone."""
        plan = Plan(architecture, processors, [])
        on_meta = (a.to("meta") if isinstance(a, Tensor) else a for a in arguments)
        with _recording(plan):
            self.function(*on_meta)
        return plan.launches


def kernel(function: Callable[..., Any]) -> Kernel:
    """Registers a launcher, under its name, as the Triton kernel of that op.

    What it refuses, fastconv/dispatch/triton_limits.py says.
    """
    KERNELS[function.__name__] = Kernel(function)
    return KERNELS[function.__name__]


_plans: list[Plan] = []


@contextmanager
def _recording(plan: Plan) -> Iterator[None]:
    _plans.append(plan)
    try:
        yield
    finally:
        _plans.pop()


def is_traced() -> bool:
    """Whether torch is tracing the launcher."""
    return _len_torch_dispatch_stack() > 0


def wrap_triton(function: Any, device: torch.device) -> Any:
    """function, to be launched on device by wrap_triton(function, device)[grid](...).

    Torch finds the kernels of an op by this name. Only where it traces is its own wrapper wanted,
    which costs more than a launch.
    """
    if device.type == "meta":
        return _Planned(function)
    if INTERPRETED:
        return function
    if is_traced():
        return torch.library.wrap_triton(function)
    if device.index != torch.cuda.current_device():
        return _OnDevice(function, device)
    return function


@dataclass(frozen=True)
class _Planned:
    function: Any

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **options: Any) -> None:
            if _plans:
                _plans[-1].launches.append(Launch(self.function, grid, arguments, options))

        return launch


@dataclass(frozen=True)
class _OnDevice:
    function: Any
    device: torch.device

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **options: Any) -> None:
            with torch.cuda.device(self.device):
                self.function[grid](*arguments, **options)

        return launch


def is_channels_last(tensor: Tensor) -> bool:
    """Whether the result of an op on tensor is channels_last."""
    return memory_format_of(tensor) is torch.channels_last


def dense(tensor: Tensor, channels_last: bool) -> Tensor:
    """tensor itself where it is dense in that layout, else a copy that is."""
    if channels_last and tensor.dim() == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor.contiguous()


def empty_in(tensor: Tensor, shape: Sequence[int], channels_last: bool) -> Tensor:
    """An empty tensor in tensor's dtype and device, dense in that layout."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=tensor.dtype, device=tensor.device, memory_format=memory_format)


def check_shape(op: str, name: str, tensor: Tensor, wanted: Sequence[int]) -> None:
    """Raises RuntimeError unless tensor has the wanted shape."""
    if tuple(tensor.shape) != tuple(wanted):
        raise RuntimeError(
            f"{op}: expected {name} of shape {tuple(wanted)}, got {tuple(tensor.shape)}"
        )


def architecture(device: torch.device) -> int:
    """90 for sm_90; that of the plan where one is made."""
    if device.type != "cuda":
        return _plans[-1].architecture if _plans else HOPPER
    return _architecture(device)


@cache
def _architecture(device: torch.device) -> int:
    if not torch.cuda.is_available():
        return HOPPER
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def cdiv(size: int, block: int) -> int:
    """size / block, rounded up."""
    return -(-size // block)


def block_of(size: int, most: int) -> int:
    """A power of two up to most that covers size in blocks; it should leave no sixth of them idle.

    The largest such: a wider block reads longer rows of memory. 56 goes in 64, 144 in 5 x 32.
    """
    widest = 1
    while widest < min(size, most):
        widest *= 2
    block = widest
    while block > 8 and cdiv(size, block) * block > size * 7 // 6:
        block //= 2
    return block if cdiv(size, block) * block < cdiv(size, widest) * widest else widest


def processors(device: torch.device) -> int:
    """Streaming multiprocessors of a CUDA device; those of the plan where one is made."""
    if device.type == "cpu":
        return 1  # interpreted: few programs
    if device.type != "cuda":
        return _plans[-1].processors if _plans else H100_PROCESSORS
    return _processors(device)


@cache
def _processors(device: torch.device) -> int:
    if not torch.cuda.is_available():
        return H100_PROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count
