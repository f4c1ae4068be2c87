"""How much of a process lies in memory. Linux only; elsewhere all is None."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

STATUS = Path("/proc/self/status")
RESET_PEAK = "5"  # man 5 proc, clear_refs


def resident_bytes(field: str = "VmRSS") -> int | None:
    """Bytes of this process in memory: now, or, as VmHWM, at most since the peak was reset."""
    if not STATUS.exists():
        return None
    sizes = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return 1024 * int(sizes[field].split()[0]) if field in sizes else None


def peak_bytes(call: Callable[[], object]) -> int | None:
    """The most that lies in memory during a call, without what the allocator only keeps."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    except (OSError, AttributeError):  # not Linux, not glibc, or a kernel that forbids it
        return None
    call()
    return resident_bytes("VmHWM")
