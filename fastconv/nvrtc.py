"""CUDA kernels compiled at run time by NVRTC through CuPy, from the sources that nvcc takes too.

A kernel is compiled when first launched, for the very template arguments of the launch (element
type, kernel size, stride, channels, ...), and kept on disk under a key of these, all sources,
compiler version and architecture.
"""

import functools
import hashlib
import logging
from pathlib import Path
from typing import Any

from fastconv import kept

_log = logging.getLogger("fastconv")

# What the kernels take from the standard library, which NVRTC does not have.
STANDARD_HEADERS = {
    "cstdint": """#pragma once
using int8_t = signed char; using uint8_t = unsigned char;
using int16_t = short; using uint16_t = unsigned short;
using int32_t = int; using uint32_t = unsigned int;
using int64_t = long long; using uint64_t = unsigned long long;
using uintptr_t = unsigned long long;
""",
    "cmath": "#pragma once\n",
}

# What a driver says to a runtime, or to code, that is newer than itself: INSUFFICIENT_DRIVER,
# INVALID_IMAGE, NO_BINARY_FOR_GPU, INVALID_PTX and UNSUPPORTED_PTX_VERSION.
TOO_OLD = (35, 200, 209, 218, 222)


def sources() -> Path:
    """csrc/kernels: within the installed package, or beside it in a checkout."""
    installed = Path(__file__).parent / "csrc" / "kernels"
    return installed if installed.exists() else Path(__file__).parents[1] / "csrc" / "kernels"


@functools.cache
def _digest_of_sources() -> bytes:
    digest = hashlib.sha256()
    for path in sorted(sources().rglob("*")):
        if path.suffix in (".h", ".cuh", ".def") and "cpu" not in path.parts:
            digest.update(path.name.encode() + path.read_bytes())
    return digest.digest()


def _nvrtc() -> Any:
    """CuPy's NVRTC. Raises RuntimeError where it is not there."""
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
    except Exception as error:  # ImportError, or CuPy's own where it finds no NVRTC
        raise RuntimeError(
            f"fastconv compiles its CUDA kernels through CuPy, which does not work here ({error}): "
            "`pip install cupy-cuda13x nvidia-cuda-nvrtc` (cupy-cuda12x for CUDA 12)"
        ) from error
    return nvrtc


def compile_cubin(op: str, expression: str, architecture: str) -> tuple[str, bytes]:
    """The symbol and the cubin of a kernel, e.g. 'fastconv::cuda::residual_add_shortcut<0>'.

    Args:
        op: the stem of its source, csrc/kernels/cuda/<op>.cuh.
        architecture: such as 'sm_90'; needs no device.

    Raises:
        RuntimeError: NVRTC is missing, or refuses; the message has its log.
    """
    nvrtc = _nvrtc()
    version = nvrtc.getVersion()
    options = (
        "-std=c++17",
        "-default-device",  # the plans' declarations lie beside the kernels'
        f"--gpu-architecture={architecture}",
        f"-I{sources() / 'cuda'}",
    )
    key = hashlib.sha256(_digest_of_sources())
    key.update(repr((op, expression, version, *options[:-1])).encode())
    path = kept.folder("nvrtc") / f"{key.hexdigest()}.cubin"
    if (compiled := _read(path)) is not None:
        return compiled
    program = nvrtc.createProgram(
        f'#include "{op}.cuh"\n',
        f"{op}.cu",
        [text.encode() for text in STANDARD_HEADERS.values()],
        [name.encode() for name in STANDARD_HEADERS],
    )
    try:
        nvrtc.addNameExpression(program, expression)
        try:
            nvrtc.compileProgram(program, options)
        except nvrtc.NVRTCError as error:
            raise RuntimeError(
                f"NVRTC {'.'.join(map(str, version))} cannot compile {expression} for "
                f"{architecture} ({error}):\n{nvrtc.getProgramLog(program)}"
            ) from None
        symbol = nvrtc.getLoweredName(program, expression)
        symbol = symbol.decode() if isinstance(symbol, bytes) else symbol
        # CuPy leaves out the last byte, as if it ended a string.
        cubin = nvrtc.getCUBIN(program) + b"\0"
    finally:
        nvrtc.destroyProgram(program)
    _write(path, symbol, cubin)
    return symbol, cubin


def load(launch: Any, device: int) -> int:
    """The CUfunction of a planned launch on a device: what fastconv._C asks for."""
    version = ".".join(map(str, _nvrtc().getVersion()))  # first: it says how to get CuPy
    import cupy

    try:
        with cupy.cuda.Device(device) as current:
            architecture = f"sm_{current.compute_capability}"
            symbol, cubin = compile_cubin(launch.op, launch.expression, architecture)
            module = cupy.cuda.function.Module()
            module.load(cubin)
            _loaded.append(module)
            return int(module.get_function(symbol).ptr)
    except (cupy.cuda.driver.CUDADriverError, cupy.cuda.runtime.CUDARuntimeError) as error:
        if error.status not in TOO_OLD:
            raise
        raise RuntimeError(
            f"NVIDIA's driver is too old for the kernels that NVRTC {version} compiles ({error}): "
            f"update it to one for CUDA {version}, or take a CuPy of the driver's CUDA "
            "(`pip install cupy-cuda12x`; nvidia-smi shows the version)"
        ) from error


_loaded: list[Any] = []  # a module unloads its kernels when it is collected


# A file is the symbol, a line end and the cubin.
def _read(path: Path) -> tuple[str, bytes] | None:
    try:
        body = kept.read(path)
    except ValueError as error:
        _log.warning("%s and is compiled anew", error)
        return None
    if body is None:
        return None
    symbol, _, cubin = body.partition(b"\n")
    return symbol.decode(), cubin


def _write(path: Path, symbol: str, cubin: bytes) -> None:
    try:
        kept.write(path, symbol.encode() + b"\n" + cubin)
    except OSError as error:  # which costs only the next process a compilation
        kept.warn_once(f"compiled CUDA kernels are not kept: {error}")
