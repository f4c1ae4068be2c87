"""What a call holds of memory while it runs, as torch's allocator saw it."""

import os
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from fastconv import _C
from fastconv.cost.meter import tensors


def release_memory() -> None:
    """Gives the memory back that training steps keep for the next one, on the CPU.

    Results of 2 MiB and more of our layers, in forward passes that want gradients and in backward
    passes, lie in memory that is kept when they are freed: at most a quarter more than such results
    once held at the same time. Torch's profiler does not count it.
    """
    _C.release_memory()


def peak_memory(function: Callable[..., Any], *inputs: Any) -> int:
    """The most bytes that function(*inputs), a model or any callable, holds at once at inference.

    Counted are all tensors made during the call, those of torch's own ops too, as their memory is
    taken and freed; inputs and weights are there before. What an optimized module keeps for its
    intermediates from call to call is released first, so that the call takes and counts it. Not
    counted is the scratch that the kernels keep in each thread, a few tiles or packed weights.
    """
    return max((held for _, held in memory_timeline(function, *inputs)), default=0)


def memory_timeline(function: Callable[..., Any], *inputs: Any) -> list[tuple[int, int]]:
    """Each time memory is taken or freed, ns of torch's clock, and the bytes held from then on.

    Counted as by peak_memory, in the memory of the device that the inputs are on.
    """
    kind = next((tensor.device.type for tensor in tensors(inputs)), "cpu").upper()
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or torch 2.13 writes two lines to stderr
    with torch.no_grad():
        for _ in range(2):  # plans are made, and layers have their lazy parts
            function(*inputs)
        if hasattr(function, "release_memory"):
            function.release_memory()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
            output = function(*inputs)
    del output
    assert record.profiler is not None
    events = sorted(record.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    changes = [e for e in events if e.name() == "[memory]" and e.device_type().name == kind]
    held = accumulate(event.nbytes() for event in changes)
    return list(zip((event.start_ns() for event in changes), held, strict=True))
