"""The CUDA kernels on the CPU: within `emulated()` the ops on CPU tensors take them."""

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fastconv import _C
from tests.helpers import SETUP

LIBRARY = SETUP["BUILD_DIR"] / SETUP["EMULATOR"]
ORDERS = ["forward", "backward", "rotated"]  # in which the threads of a block take their turns
# Few multiprocessors, so that small shapes fill them.
SMALL_H100 = _C.gpu.Device(architecture=90, multiprocessors=3)
COMPILING = _C.gpu.Device(architecture=90, multiprocessors=3, compiles=True)  # as NVRTC does


@functools.cache
def _library() -> ctypes.CDLL:
    if not LIBRARY.exists():
        pytest.fail(f"{LIBRARY} is missing: `make emulator`")
    library = ctypes.CDLL(str(LIBRARY))
    library.fastconv_emulator_launcher.restype = ctypes.c_void_p
    return library


@contextmanager
def emulated(order: str = "forward", device: _C.gpu.Device = SMALL_H100) -> Iterator[None]:
    _library().fastconv_emulator_set_order(ORDERS.index(order))
    _C.gpu.use_emulator(_library().fastconv_emulator_launcher(), device)
    try:
        yield
    finally:
        _C.gpu.stop_emulator()


@contextmanager
def recorded(device: _C.gpu.Device) -> Iterator[list[_C.gpu.Launch]]:
    """The launches that the block would make on such a device; nothing runs."""
    launches: list[_C.gpu.Launch] = []
    _C.gpu.take_recorded()
    _C.gpu.use_recorder(device)
    try:
        yield launches
    finally:
        _C.gpu.stop_emulator()
        launches += _C.gpu.take_recorded()


def launch_counts() -> dict[str, int]:
    return {f"{op}_{name}": count for op, name, _, count in _C.gpu.kernels()}


@contextmanager
def launches(kernel: str) -> Iterator[None]:
    """Asserts that the block launched the named kernel, e.g. 'residual_add_same_size'."""
    before = launch_counts()[kernel]
    yield
    assert launch_counts()[kernel] > before, f"{kernel} was not launched"
