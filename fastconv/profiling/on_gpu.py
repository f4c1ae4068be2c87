"""A profile on a GPU: the times of kernels, torch's caching allocator, NVIDIA's counters."""

from pathlib import Path

import torch

from fastconv.gpu_probe import copy_rate, product_rate
from fastconv.profiling.alarms import SLOW_OPS
from fastconv.profiling.counters import CountersError, run_ncu
from fastconv.profiling.device import EventClock, Gpu, KernelClock, executions
from fastconv.profiling.measure import Session, Stages
from fastconv.profiling.record import Alarm, LackingError, Roofs
from fastconv.profiling.steps import Clock
from fastconv.profiling.subject import Subject
from fastconv.progress import Progress

# From what an L2 holds to what only memory does; an A100 has 40 MiB of L2, an H100 50.
SIZES = [size << 20 for size in (1, 4, 16, 64, 256, 1024)]
PRODUCT = 8192


class GpuSession(Session):
    """The same stages, timed on the GPU; `ncu` is NVIDIA's profiler where its counters are wanted.

    A layer's time is that of its kernels. The whole lies between two events of the stream: what it
    takes beyond its layers the GPU waited for the host.
    """

    def __init__(
        self, subject: Subject, seconds: float, gpu: Gpu | None = None, ncu: Path | None = None
    ) -> None:
        self.gpu, self.ncu = gpu or Gpu(), ncu
        self.device = str(self.gpu.device)
        super().__init__(subject, seconds)
        self.profile.environment |= self.gpu.environment()
        self.profile.gpu = f"Measured on {self.gpu.name()}: times of layers are of their kernels."

    def stages(self) -> Stages:
        stages = super().stages()
        stages["first calls"] = stages.pop("first calls and oneDNN's log")
        if self.ncu is not None:
            stages["hardware counters"] = (0.25, self.count_in_hardware)
        return stages

    def measure_roofs(self, progress: Progress) -> None:
        self.profile.roofs = measure_gpu_roofs(self.gpu.device, self.dtype)

    def step_clock(self) -> Clock:
        return KernelClock(self.gpu)

    def whole_clock(self) -> Clock:
        return EventClock(self.gpu)

    def count_in_hardware(self, progress: Progress) -> None:
        assert self.ncu is not None
        job = {
            "name": self.subject.name,
            "batch": self.subject.batch,
            "dtype": self.subject.dtype,
            "device": self.device,
            "threads": self.threads,
            "channels_last": self.channels_last,
        }
        try:
            self.evidence.counters = run_ncu(self.ncu, job)
        except CountersError as error:
            raise LackingError(str(error)) from error

    def conclude(self) -> None:
        for side, clock in self.evidence.clocks.items():
            if isinstance(clock, KernelClock) and clock.last:
                self.evidence.logs[side] = executions(clock.last)
        super().conclude()

    def alarms(self) -> list[Alarm]:
        """Only the ops that torch is known to be slow in: there is no log of why."""
        times = self.evidence.own_times("torch")
        found = [
            Alarm("torch", owner or "itself", op, why, 1e3 * times[owner])
            for owner, figures in self.evidence.torch
            for op, why in SLOW_OPS.items()
            if op in figures.ops and owner in times
        ]
        return sorted(found, key=lambda alarm: -(alarm.ms or 0))


def measure_gpu_roofs(device: torch.device, dtype: torch.dtype) -> Roofs:
    """Rates of torch's own copies and product of matrices, which is the peak of its dtype."""
    small = device.type == "cpu"  # a rehearsal
    sizes = SIZES[:2] if small else SIZES
    rates = [copy_rate(device, size) for size in sizes]
    peak = product_rate(device, 256 if small else PRODUCT, dtype)
    return Roofs(peak, sizes, rates, rates)
