"""What fastconv finds on this machine, and the command that gets what it does not find."""

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

import torch

from fastconv.machine import cores, processor_name
from fastconv.peers import PEERS, install_command

BUILD_COMMAND = (
    "pip install --no-build-isolation . (in a checkout: python setup.py build_ext --inplace)"
)


@dataclass
class Finding:
    topic: str
    name: str
    found: bool
    detail: str  # what was found, or how to get it
    needed: bool = False  # fastconv does not work without it


def examine() -> list[Finding]:
    """Never raises for a missing piece; imports nothing that may be broken but fastconv's own."""
    return [*fastconv_findings(), *torch_findings(), *gpu_findings(), *rival_findings()]


def fastconv_findings() -> Iterator[Finding]:
    topic = "fastconv"
    try:
        from fastconv import _C
    except ImportError as error:
        cause = error.__cause__ or error
        yield Finding(topic, "compiled kernels", False, f"{cause}; build: {BUILD_COMMAND}", True)
        return
    yield Finding(topic, "compiled kernels", True, _C.__file__ or "built in", True)
    yield Finding(topic, "instruction set", True, f"{_C.isa()}: {why_isa(_C)}")
    ops = Counter(op for op, *_ in _C.variants())
    counts = ", ".join(f"{op} {count}" for op, count in sorted(ops.items()))
    yield Finding(topic, "kernel variants", True, f"{ops.total()}: {counts}")


def why_isa(extension: object) -> str:
    in_use, best = extension.isa(), extension.detected_isa()  # type: ignore[attr-defined]
    if forced := os.environ.get("FASTCONV_ISA"):
        return f"forced by FASTCONV_ISA={forced}, the processor's best is {best}"
    if in_use == best:
        known = "scalar, avx2, avx512, avx512_bf16 and amx"
        return f"the best of {known} that this {processor_name()} runs"
    return f"forced by this program, the processor's best is {best}"


def torch_findings() -> Iterator[Finding]:
    topic = "torch"
    threads = f"{torch.get_num_threads()} threads on {cores()} cores"
    yield Finding(topic, "torch", True, f"{torch.__version__}, {threads}", True)
    one_dnn = re.search(r"MKL-DNN v([\d.]+)", torch.__config__.show())
    yield Finding(
        topic, "oneDNN", one_dnn is not None, one_dnn[1] if one_dnn else "not in this torch"
    )


def gpu_findings() -> Iterator[Finding]:
    topic = "GPU"
    if torch.cuda.is_available():
        yield Finding(
            topic, "CUDA in torch", True, f"{torch.version.cuda}, {torch.cuda.get_device_name()}"
        )
    elif torch.version.cuda:
        yield Finding(
            topic, "CUDA in torch", False, f"built for {torch.version.cuda}, but no GPU answers"
        )
    else:
        detail = "a CPU build; pytorch.org/get-started gives the command for your CUDA version"
        yield Finding(topic, "CUDA in torch", False, detail)
    yield from cuda_kernel_findings(topic)
    yield nvcc_finding(topic)
    yield package_finding(topic, "Triton", ["triton"], "triton")
    yield package_finding(topic, "CuPy", ["cupy", "cupy-cuda13x", "cupy-cuda12x"], "cupy-cuda13x")


def cuda_kernel_findings(topic: str) -> Iterator[Finding]:
    """Which way in is live, and what each of the others lacks."""
    try:
        from fastconv import _C, gpu
    except ImportError:
        return
    live = _C.gpu.way()
    for way, what in {"cuda": "built by nvcc", "nvrtc": "compiled at run time"}.items():
        name = f"CUDA kernels, {what}"
        if (missing := gpu.missing(way)) is not None:
            yield Finding(topic, name, False, missing)
        elif way == live:
            yield Finding(topic, name, True, "these serve CUDA tensors")
        else:
            why = f"another way serves: FASTCONV_GPU={way} takes this" if live else gpu.why_none()
            yield Finding(topic, name, True, why)


def nvcc_finding(topic: str) -> Finding:
    path = shutil.which("nvcc")
    if path is None:
        return Finding(
            topic, "nvcc", False, "install NVIDIA's CUDA toolkit, or nvcc is not on PATH"
        )
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(topic, "nvcc", False, f"{path} does not run: {error}")
    release = re.search(r"release ([\d.]+)", answer.stdout)
    return Finding(topic, "nvcc", True, f"{release[1] if release else 'unknown version'}, {path}")


def package_finding(topic: str, name: str, packages: list[str], advice: str) -> Finding:
    """The first installed package of several that bring the same module."""
    for package in packages:
        try:
            return Finding(topic, name, True, f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return Finding(topic, name, False, install_command([advice]))


def rival_findings() -> Iterator[Finding]:
    for peer in PEERS.values():
        if not peer.needs:
            continue
        if missing := peer.missing():
            yield Finding("rivals", peer.title, False, install_command(missing))
        else:
            versions = ", ".join(f"{name} {metadata.version(name)}" for name in peer.needs)
            yield Finding("rivals", peer.title, True, versions)
