"""fastconv profile: measures a network in torch and in fastconv, stage by stage."""

import copy
from collections.abc import Callable
from datetime import date
from platform import python_version, system
from statistics import median, quantiles
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn

import fastconv
from fastconv.cost.meter import tensors
from fastconv.machine import cores, processor_name
from fastconv.memory import memory_timeline
from fastconv.peers.turns import time_in_turn
from fastconv.profiling.alarms import alarms_of
from fastconv.profiling.evidence import Evidence
from fastconv.profiling.figures import count, largest_difference
from fastconv.profiling.fresh import FreshError, run_fresh
from fastconv.profiling.layers import layers_of
from fastconv.profiling.networks import in_channels_last, optimized
from fastconv.profiling.record import NO_GPU, Alarm, LackingError, Profile, Whole
from fastconv.profiling.roofline import measure_roofs
from fastconv.profiling.steps import Clock, clocked
from fastconv.profiling.subject import Subject, SubjectError, describe
from fastconv.progress import Progress, part, silent

LAYOUTS = ("torch contiguous", "torch channels_last")


def profile(
    subject: Subject,
    *,
    seconds: float = 10.0,
    progress: Progress = silent,
    session: "Callable[[Subject, float], Session] | None" = None,
) -> Profile:
    """Measures a network layer by layer, torch beside fastconv, on torch's threads.

    A stage that fails is left out and named in `lacking`. An interrupt ends the measuring, and the
    profile holds what there is, marked as interrupted.

    Args:
        seconds: about how long the layers are timed.
        session: makes what measures; on_gpu.GpuSession does so on a GPU.

    Raises:
        SubjectError: the model does not run on its inputs.
    """
    running = (session or Session)(subject, seconds)
    stages = running.stages()
    whole = sum(share for share, _ in stages.values())
    done = 0.0
    left = dict(stages)
    try:
        for name, (share, stage) in stages.items():
            progress(name, done)
            share /= whole
            try:
                stage(part(progress, done, done + share))
            except LackingError as reason:
                running.profile.lacking[name] = str(reason)
            done += share
            del left[name]
    except KeyboardInterrupt:
        running.profile.interrupted = True
        running.profile.lacking |= dict.fromkeys(left, "interrupted")
    running.conclude()
    return running.profile


Stages = dict[str, tuple[float, Callable[[Progress], None]]]  # with their shares of the time


class Session:
    """The networks of one profile, and what its stages found."""

    device = "cpu"

    def __init__(self, subject: Subject, seconds: float) -> None:
        self.subject, self.seconds = subject, seconds
        self.threads = torch.get_num_threads()
        dtypes = (p.dtype for p in subject.model.parameters() if p.is_floating_point())
        self.dtype = next(dtypes, torch.float32)
        self.network: nn.Module | None = None
        self.channels_last = False
        self.evidence = Evidence(subject.model)
        self.clocks: dict[str, Clock] = {}
        self.profile = Profile(
            model=subject.name,
            dtype=str(self.dtype).removeprefix("torch."),
            device=self.device,
            threads=self.threads,
            input=[list(tensor.shape) for tensor in tensors(subject.inputs)],
            environment=environment(),
            gpu=NO_GPU,
        )

    def stages(self) -> Stages:
        return {
            "optimized network": (0.1, self.optimize),
            "work of the layers": (0.05, self.count),
            "roofs": (0.1, self.measure_roofs),
            "times": (0.45, self.time),
            "memory": (0.05, self.watch_memory),
            "first calls and oneDNN's log": (0.25, self.start_fresh),
        }

    def optimize(self, progress: Progress) -> None:
        model, inputs = self.subject.model, self.subject.inputs
        with torch.no_grad():
            try:
                expected = model(*inputs)
            except Exception as error:  # whatever a model of the user's raises
                reason = f"{self.subject.name} does not run on its inputs: {describe(error)}"
                raise SubjectError(reason) from error
            self.network, self.profile.unfused = optimized(model, inputs)
            self.profile.difference = largest_difference(self.network(*inputs), expected)
        self.evidence.network = self.network

    def count(self, progress: Progress) -> None:
        self.evidence.torch = count(self.subject.model, self.subject.inputs)
        self.evidence.fastconv = count(self._network(), self.subject.inputs)

    def measure_roofs(self, progress: Progress) -> None:
        self.profile.roofs = measure_roofs(self.dtype)

    def time(self, progress: Progress) -> None:
        """Torch's better layout is found first; then it and fastconv, whole and in steps."""
        network, inputs = self._network(), self.subject.inputs
        turned = copy.deepcopy(self.subject.model).to(
            memory_format=torch.channels_last  # type: ignore[call-overload]
        )
        sides = {
            LAYOUTS[0]: (self.subject.model, inputs),
            LAYOUTS[1]: (turned, pytree.tree_map(in_channels_last, inputs)),
        }
        layouts = {name: self.whole(*side) for name, side in sides.items()}
        time_in_turn(list(layouts.values()), self.seconds / 5, part(progress, 0, 0.2))
        best = min(layouts, key=lambda name: median(layouts[name].totals))
        self.channels_last = best == LAYOUTS[1]
        self.clocks |= layouts
        clocks = self.step_clock(), self.step_clock()
        with (
            clocked(*sides[best], clocks[0]) as theirs,
            clocked(network, inputs, clocks[1]) as ours,
        ):
            self.evidence.clocks = {"torch": theirs, "fastconv": ours}
            wholes = self.whole(*sides[best]), self.whole(network, inputs)
            self.clocks |= dict(zip(("torch", "fastconv"), wholes, strict=True))
            runners = [theirs, ours, self.clocks["torch"], self.clocks["fastconv"]]
            time_in_turn(runners, self.seconds, part(progress, 0.2, 1))

    def step_clock(self) -> Clock:
        return Clock()

    def whole_clock(self) -> Clock:
        return Clock()

    def whole(self, network: nn.Module, inputs: tuple[Any, ...]) -> Clock:
        clock = self.whole_clock()
        clock.call = torch.inference_mode()(lambda: network(*inputs))
        return clock

    def watch_memory(self, progress: Progress) -> None:
        for side, network in {"torch": self.subject.model, "fastconv": self._network()}.items():
            line = memory_timeline(network, *self.subject.inputs)
            begin = min((at for at, _ in line), default=0)
            lasted = max((at - begin for at, _ in line), default=0) or 1
            self.profile.memory[side] = [
                (round((at - begin) / lasted, 5), held) for at, held in line
            ]

    def start_fresh(self, progress: Progress) -> None:
        job = {
            "name": self.subject.name,
            "batch": self.subject.batch,
            "dtype": self.subject.dtype,
            "threads": self.threads,
            "device": self.device,
            "channels_last": self.channels_last,
        }
        failed = []
        for index, side in enumerate(("torch", "fastconv")):
            progress(f"{side} in a process of its own", index / 2)
            try:
                start, log = run_fresh(job | {"side": side, "title": self._title(side)})
            except FreshError as error:
                failed.append(f"{side} in a process of its own {error}")
                continue
            self.profile.starts[side] = start
            self.evidence.logs[side] = log
        if failed:
            raise LackingError("; ".join(failed))

    def conclude(self) -> None:
        """Puts together what the stages found, as far as they came."""
        for side, clock in self.clocks.items():
            if clock.totals:
                self.profile.wholes[side] = summary(self._title(side), clock)
        self.profile.layers = layers_of(self.evidence, self.profile.roofs)
        for side in ("torch", "fastconv"):
            times = [getattr(layer, side).ms for layer in self.profile.layers]
            if side in self.profile.wholes and None not in times:
                self.profile.wholes[side].layers_ms = sum(times)
        self.profile.alarms = self.alarms()

    def alarms(self) -> list[Alarm]:
        return alarms_of(self.evidence)

    def _network(self) -> nn.Module:
        if self.network is None:
            raise LackingError("there is no optimized network")
        return self.network

    def _title(self, side: str) -> str:
        return LAYOUTS[self.channels_last] if side == "torch" else side


def summary(title: str, clock: Clock) -> Whole:
    """In ms; a single call is its own quartiles."""
    times = [1e3 * seconds for seconds in clock.totals]
    low, middle, high = quantiles(times, n=4) if len(times) > 1 else times * 3
    return Whole(title, middle, (low, high), len(times))


def environment() -> dict[str, str]:
    found = {
        "processor": processor_name(),
        "cores": str(cores()),
        "instruction set": fastconv._C.isa(),
        "fastconv": fastconv.__version__,
        "torch": torch.__version__,
        "Python": python_version(),
        "system": system(),
        "date": date.today().isoformat(),
        "GPU": "none" if not torch.cuda.is_available() else "not measured",
    }
    return found
