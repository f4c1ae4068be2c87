"""The choice of a backend: a pure function, so that it can be planned for any machine."""

from dataclasses import dataclass

import torch

from fastconv.dispatch import triton_limits
from fastconv.dispatch.call import Call
from fastconv.dispatch.machine import Machine
from fastconv.dispatch.measured import NOTHING_MEASURED, Measured

KERNEL_DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})

# Of a GPU, in the order taken where nothing was measured: kernels compiled ahead of time start
# without a search or a compiler, and torch's own ops are what ours are there to beat.
GPU_BACKENDS = ("cuda", "nvrtc", "triton", "reference")
BACKENDS = ("cpu", *GPU_BACKENDS)


class BackendError(RuntimeError):
    """A backend was forced on a call that it cannot do."""


@dataclass(frozen=True)
class Choice:
    """A backend and why it is this one; '' where it goes without saying."""

    backend: str
    reason: str = ""


def choose(
    call: Call,
    machine: Machine,
    forced: str = "auto",
    measured: Measured = NOTHING_MEASURED,
) -> Choice:
    """The backend that serves call on machine.

    Raises BackendError where the forced backend cannot, and says why.
    """
    if forced != "auto":
        if reason := why_not(forced, call, machine):
            raise BackendError(f"use_backend({forced!r}): {call.op} cannot run there: {reason}")
        return Choice(forced, "forced by use_backend")
    if reason := _no_kernel(call):
        return Choice("reference", reason)
    if call.device == "cpu":
        return Choice("cpu")
    if call.device != "cuda":
        return Choice("reference", f"no kernel for device '{call.device}' in this build")
    refusals = {backend: why_not(backend, call, machine) for backend in GPU_BACKENDS}
    able = [backend for backend in GPU_BACKENDS if not refusals[backend]]
    if len(able) > 1 and (found := measured.fastest(call, machine.gpu, able)):
        return Choice(*found)
    before = GPU_BACKENDS[: GPU_BACKENDS.index(able[0])]
    lacking = [f"{backend}: {refusals[backend]}" for backend in before]
    if len(able) > 1:
        lacking.append(f"nothing near measured on {machine.gpu}, so the default order")
    return Choice(able[0], "; ".join(lacking))


def why_not(backend: str, call: Call, machine: Machine) -> str:
    """Why backend cannot serve call on machine, '' where it can."""
    if backend == "reference":
        return ""
    if reason := _no_kernel(call):
        return reason
    if backend == "cpu":
        return "" if call.device == "cpu" else f"its tensors are on '{call.device}'"
    if call.device != "cuda" and not (backend == "triton" and machine.interprets_triton):
        return f"its tensors are on '{call.device}'"
    if backend == "triton":
        return machine.why_no_triton or triton_limits.why_not(call)
    if machine.way != backend:
        if backend not in machine.ways:
            return NO_WAY[backend]
        taken = f"came by '{machine.way}'" if machine.way else "are switched off"
        return f"the CUDA kernels {taken}, which fastconv.gpu.use({backend!r}) changes"
    if machine.why_no_cuda:
        return machine.why_no_cuda
    return "" if call.op in machine.cuda_ops else f"no CUDA kernel for {call.op}"


NO_WAY = {
    "cuda": "fastconv was built without CUDA",
    "nvrtc": "CuPy is not installed",
}


def _no_kernel(call: Call) -> str:
    if call.dtype not in KERNEL_DTYPES:
        return f"no kernel for {call.dtype}"
    if call.forward_mode:
        return "forward-mode differentiation takes torch's own formulas"
    return ""
