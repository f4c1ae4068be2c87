"""What there is to choose from: the GPU and the kernels that can run on it."""

import os
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

import torch

from fastconv import _C
from fastconv.gpu import WAYS, missing

LEAST_ARCH = 80  # Ampere: the first with bfloat16 and asynchronous copies


class Machine(NamedTuple):
    gpu: str = ""  # its name
    arch: int = 0  # 90 for sm_90
    way: str | None = None  # 'cuda' or 'nvrtc': as fastconv.gpu has it; None without CUDA kernels
    cuda_ops: frozenset[str] = frozenset()  # those with a CUDA kernel
    why_no_triton: str = ""  # '' where Triton can run
    interprets_triton: bool = False  # on CPU tensors, for tests
    why_no_cuda: str = ""  # '' where the kernels of `way` can run on such a GPU
    ways: frozenset[str] = frozenset()  # those that are open here; `way` is one of them


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
        why_no_cuda(arch, way, _C.gpu.built_for()),
        open_ways(),
    )


def open_ways() -> frozenset[str]:
    return frozenset(way for way in WAYS if missing(way) is None)


def why_no_cuda(arch: int, way: str | None, built_for: str) -> str:
    """Why the kernels of way cannot run on a GPU of that arch, '' where they can.

    built_for: the architectures that nvcc compiled for, '80 90'.
    """
    if way is None:
        return ""
    if arch < LEAST_ARCH:
        return f"the CUDA kernels want sm_{LEAST_ARCH} or newer, this is sm_{arch}"
    if way == "cuda" and not _runs_on(arch, built_for.split()):
        return (
            f"fastconv was built for GPUs of {built_for}, this is sm_{arch}: FASTCONV_GPU=nvrtc "
            f"compiles at run time, or build anew with FASTCONV_CUDA_ARCHITECTURES={arch}"
        )
    return ""


def _runs_on(arch: int, built_for: list[str]) -> bool:
    """Code runs on its own architecture and on the later ones of its generation; the PTX, which the
    last of them left, on all that came later. What is named with a letter runs there alone.
    """
    if str(arch) in (built.rstrip("af") for built in built_for):
        return True
    plain = [int(built) if built.isdigit() else 0 for built in built_for]
    same = any(built // 10 == arch // 10 and built <= arch for built in plain)
    return same or 0 < plain[-1] <= arch


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
