"""What there is to choose from: the GPU and the kernels that can run on it."""

import os
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

import torch

from fastconv import _C

LEAST_ARCH = 80  # Ampere: the first with bfloat16 and asynchronous copies


class Machine(NamedTuple):
    gpu: str = ""  # its name
    arch: int = 0  # 90 for sm_90
    way: str | None = None  # 'cuda' or 'nvrtc': as fastconv.gpu has it; None without CUDA kernels
    cuda_ops: frozenset[str] = frozenset()  # those with a CUDA kernel
    why_no_triton: str = ""  # '' where Triton can run
    interprets_triton: bool = False  # on CPU tensors, for tests


# GPUs to plan for without one: the name torch gives them, their arch. A plan counts on Triton,
# which comes with torch there.
GPUS = {
    "a100": Machine("NVIDIA A100-SXM4-80GB", 80),
    "h100": Machine("NVIDIA H100 80GB HBM3", 90),
    "h200": Machine("NVIDIA H200", 90),
    "b200": Machine("NVIDIA B200", 100),
}


def this_machine(device: int | None = None) -> Machine:
    """The machine at hand, with its GPU of that index."""
    return _machine(device, _C.gpu.way())


@cache
def _machine(device: int | None, way: str | None) -> Machine:
    if device is None:
        return Machine(why_no_triton=why_no_triton(0), interprets_triton=interprets_triton())
    major, minor = torch.cuda.get_device_capability(device)
    arch = 10 * major + minor
    return Machine(
        torch.cuda.get_device_name(device),
        arch,
        way,
        frozenset(_C.gpu.ops()) if way else frozenset(),
        why_no_triton(arch),
        interprets_triton(),
    )


def interprets_triton() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def why_no_triton(arch: int) -> str:
    """Why Triton cannot run on a GPU of that arch here, '' where it can."""
    if find_spec("triton") is None:
        return "Triton is not installed"
    if interprets_triton():
        return ""
    if torch.version.hip is not None:
        return "the Triton kernels were never tried on ROCm"
    return "" if arch >= LEAST_ARCH else f"Triton kernels want sm_{LEAST_ARCH}, this is sm_{arch}"
