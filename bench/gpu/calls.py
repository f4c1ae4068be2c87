"""The calls of our ops that a case makes, found without computing anything."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.cases import Case
from bench.gpu.measure import in_layout
from fastconv import _C, gpu

OpCall = tuple[str, tuple[Any, ...]]


class _Calls(TorchDispatchMode):
    """Keeps the calls of ops of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[OpCall] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, _, op = func._schema.name.partition("::")
        if namespace == "fastconv":
            self.found.append((op, args))
        return func(*args, **(kwargs or {}))


def calls_of(case: Case, layout: str) -> list[OpCall]:
    """The raw ops of ours and their arguments, the tensors on the meta device."""
    tensors = [torch.empty(size, dtype=case.dtype, device="meta") for size in case.sizes]
    with torch.no_grad(), _Calls() as calls:
        case.ours(*in_layout(case.derive(tensors), layout))
    return calls.found


def compiled_anew(case: Case, layout: str, architecture: int) -> bool:
    """Whether NVRTC would compile other kernels for this case than nvcc has compiled, not just the
    same with known channels.
    """
    devices = [_C.gpu.Device(architecture, compiles=compiles) for compiles in (False, True)]
    ahead, anew = (
        [
            launch
            for op, arguments in calls_of(case, layout)
            for launch in gpu.plan(op, arguments, device)
        ]
        for device in devices
    )
    return len(ahead) != len(anew) or any(map(_differs, ahead, anew))


def _differs(ahead: _C.gpu.Launch, anew: _C.gpu.Launch) -> bool:
    """Channels come last, and are 0 ahead of time."""
    arguments = ahead.arguments
    while arguments and arguments[-1] == 0:
        arguments.pop()
    return ahead.kernel != anew.kernel or arguments != anew.arguments[: len(arguments)]
