"""What profiling asks of a GPU: how long a call takes there, and which kernels it launched."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, record_function

from fastconv.gpu_probe import event_seconds
from fastconv.peers.onednn import Execution
from fastconv.profiling.record import LackingError
from fastconv.profiling.steps import Clock

MARK = "fastconv_step,"
BEGIN = "a call begins"  # of a step
PROFILED_CALLS = 5  # a turn, for torch.profiler writes down every one
# In the names of cuDNN's kernels that only change the order of an image or a weight in memory.
REORDER = re.compile(r"nchwtonhwc|nhwctonchw", re.IGNORECASE)


class HostEvent(NamedTuple):
    """Something the processor did, and the kernels that it launched there, as (name, seconds)."""

    name: str
    start: float
    kernels: list[tuple[str, float]]


class Gpu:
    """The current CUDA device. Only what is in here needs one."""

    device = torch.device("cuda")

    def name(self) -> str:
        return torch.cuda.get_device_name()

    def environment(self) -> dict[str, str]:
        properties = torch.cuda.get_device_properties(self.device)
        return {
            "GPU": f"{properties.name}, sm_{properties.major}{properties.minor}",
            "CUDA": str(torch.version.cuda),
            "cuDNN": str(torch.backends.cudnn.version()),
        }

    def seconds(self, call: Callable[[], object]) -> float:
        return event_seconds(call)

    def host_events(self, call: Callable[[], object]) -> list[HostEvent]:
        """By torch.profiler, which ties a kernel to the operation that launched it."""
        activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as record:
            call()
            torch.cuda.synchronize()
        return [
            HostEvent(
                event.name,
                event.time_range.start,
                [(kernel.name, 1e-6 * kernel.duration) for kernel in event.kernels],
            )
            for event in record.events() or ()
            if event.device_type.name == "CPU"
        ]


def mark(owner: str) -> None:
    """The end of a stretch of work of this owner, for torch.profiler."""
    with record_function(f"{MARK}{owner}"):
        pass


Stretch = tuple[str, list[tuple[str, float]]]  # its owner, and the kernels launched in it


def calls_of(events: Iterable[HostEvent]) -> list[list[Stretch]]:
    """For each call after a BEGIN its stretches; what is outside of a call is left out."""
    calls: list[list[Stretch]] = []
    waiting: list[tuple[str, float]] = []
    for event in sorted(events, key=lambda event: event.start):
        if not event.name.startswith(MARK):
            waiting += event.kernels
            continue
        owner = event.name.removeprefix(MARK)
        if owner == BEGIN:
            calls.append([])
        elif calls:
            calls[-1].append((owner, waiting))
        waiting = []
    return calls


class KernelClock(Clock):
    """Adds up the times of the kernels of each step; what the GPU waits for counts nowhere.

    Attributes:
        last: the stretches of the last call.
    """

    planned = False

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self.gpu = gpu
        self.last: list[Stretch] = []

    def mark(self, owner: str) -> None:
        mark(owner)

    def run(self, calls: int, warm_up: int) -> list[float]:
        call = self.call
        assert call is not None
        for _ in range(warm_up):
            call()

        def work() -> None:
            for _ in range(min(calls, PROFILED_CALLS)):
                mark(BEGIN)
                call()
                mark("")

        before = len(self.totals)
        for stretches in calls_of(self.gpu.host_events(work)):
            owners = [owner for owner, _ in stretches]
            self.keep(owners, [sum(taken for _, taken in kernels) for _, kernels in stretches])
            self.last = stretches
        if not any(self.totals):
            raise LackingError("torch.profiler saw no kernel on the GPU")
        return self.totals[before:]


class EventClock(Clock):
    """Times whole calls between two events of the stream, the GPU's waits for the host included."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self.gpu = gpu

    def run(self, calls: int, warm_up: int) -> list[float]:
        assert self.call is not None
        for _ in range(warm_up):
            self.call()
        taken = [self.gpu.seconds(self.call) for _ in range(calls)]
        self.totals += taken
        return taken


def executions(stretches: Iterable[Stretch]) -> list[tuple[str, list[Execution]]]:
    """The kernels in the form of oneDNN's log: the same columns are made of both."""
    return [
        (owner, [Execution(kind_of(name), short(name), 1e3 * took, "") for name, took in kernels])
        for owner, kernels in stretches
    ]


def kind_of(kernel: str) -> str:
    return "reorder" if REORDER.search(kernel) else "kernel"


def short(kernel: str) -> str:
    """The name without its types, template arguments, parameters and namespaces."""
    name = kernel.removeprefix("void ")
    while (inner := re.sub(r"<[^<>]*>|\([^()]*\)", "", name)) != name:
        name = inner
    return name.split("::")[-1].strip() or kernel


@contextmanager
def synchronized(device: torch.device) -> Iterator[None]:
    """What is timed within ends when the GPU is done."""
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
