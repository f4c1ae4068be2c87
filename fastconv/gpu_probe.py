"""What a GPU can do at most, by calls that do nothing else: the lines of its roofline."""

import time
from collections.abc import Callable
from statistics import median

import torch

ROUNDS = 10


class Graph:
    """`call(i)` for i in range(sets), captured; a replay runs all of them."""

    def __init__(self, call: Callable[[int], object], sets: int) -> None:
        self.sets = sets
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # cuDNN and inductor choose their kernels
                for i in range(sets):
                    call(i)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.results = [call(i) for i in range(sets)]

    def seconds(self) -> float:
        """Of one call, the mean over a replay."""
        return event_seconds(self.graph.replay) / self.sets


class Calls:
    """In place of a Graph where there is no GPU."""

    def __init__(self, call: Callable[[int], object], sets: int) -> None:
        self.call, self.sets = call, sets

    def seconds(self) -> float:
        began = time.perf_counter()
        for i in range(self.sets):
            self.call(i)
        return (time.perf_counter() - began) / self.sets


def event_seconds(call: Callable[[], object]) -> float:
    """Between two events of the current stream, the call's work between them."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return 1e-3 * start.elapsed_time(end)


def copy_rate(device: torch.device, size: int) -> float:
    """Bytes a second of a copy that moves `size` bytes, half of them read and half written."""
    source = torch.empty(size // 8, device=device)
    target = torch.empty_like(source)
    return size / _seconds(lambda i: target.copy_(source), device)


def product_rate(device: torch.device, size: int, dtype: torch.dtype = torch.bfloat16) -> float:
    """Multiplications and additions a second of torch's product of two matrices of size x size."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _seconds(lambda i: a @ b, device)


def _seconds(call: Callable[[int], object], device: torch.device) -> float:
    runner = (Graph if device.type == "cuda" else Calls)(call, 2)
    runner.seconds()
    return median(runner.seconds() for _ in range(ROUNDS))
