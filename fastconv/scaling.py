"""Which of resolution, depth and width to grow, and how much, within a budget on this device."""

from collections.abc import Callable
from dataclasses import dataclass
from math import floor, log2

import torch
from torch.utils.benchmark import Timer

from fastconv.cost import cost
from fastconv.machine import cores, processor_name
from fastconv.models.compound_scaling import Scaling, scale
from fastconv.models.efficientnet import RESOLUTION, EfficientNet, efficientnet
from fastconv.optimize.optimize import optimize
from fastconv.progress import Progress, part, silent

NETWORKS = {"efficientnet_lite0": True, "efficientnet_b0": False}  # name: whether it is Lite
STEP = 0.125  # of phi: finer ones seldom change channels, multiples of 8, or blocks
LEAST, MOST = -4.0, 7.0  # phi of the smallest candidate, and that of EfficientNet-B7


@dataclass
class Candidate:
    """A network of the family, `grows` what it has more or less of; about 2^phi times the work.

    memory_bytes: its parameters, and its activations where they take most.
    latency_ms: of one inference, the median.
    """

    grows: str
    phi: float
    depth: float
    width: float
    resolution: int
    parameters: int
    multiplications: int
    memory_bytes: int
    latency_ms: float | None = None


@dataclass
class Advice:
    """`candidates` has the base first, then for each way to grow the largest one that fits the
    budget, as far as there is one. `best` grows all three, or where there is no room for that the
    one with most multiplications.
    """

    network: str
    batch: int
    threads: int
    processor: str
    budget_ms: float | None
    budget_bytes: float | None
    candidates: list[Candidate]
    best: Candidate


def ways_to_grow(alpha: float, beta: float, gamma: float) -> dict[str, Callable[[float], Scaling]]:
    """Each takes phi to multipliers that make about 2^phi times the multiplications."""
    return {
        "all three": lambda phi: scale(phi, alpha, beta, gamma),
        "resolution": lambda phi: Scaling(resolution=2 ** (phi / 2)),
        "depth": lambda phi: Scaling(depth=2**phi),
        "width": lambda phi: Scaling(width=2 ** (phi / 2)),
    }


def advise(
    *,
    latency_ms: float | None = None,
    memory_bytes: float | None = None,
    network: str = "efficientnet_lite0",
    alpha: float = 1.2,
    beta: float = 1.1,
    gamma: float = 1.15,
    batch: int = 1,
    threads: int | None = None,
    measure: Callable[[EfficientNet, int], float] | None = None,
    progress: Progress = silent,
) -> Advice:
    """Searches the largest network of a family that stays within the budget on this device.

    Compound scaling (Tan and Le 2019, arXiv 1905.11946) grows depth by alpha^phi, width by beta^phi
    and resolution by gamma^phi at once. `best` does so because of the paper's table 7: B0 grown to
    1.8 billion FLOPs in all three had 81.1 % right on ImageNet, in one of them 78.9 to 79.1 %.
    What each alone could grow to is found too, for comparison.

    Args:
        latency_ms, memory_bytes: the budget; one of them at least.
        network: what is grown, a name in NETWORKS.
        measure: milliseconds of one inference, for a network and a batch size; by default those of
            fastconv.optimize's network.

    Raises:
        ValueError: no budget, one that is not above 0 or too small for any candidate, an unknown
            network, or constants that scale refuses.
    """
    for name, budget in (("latency_ms", latency_ms), ("memory_bytes", memory_bytes)):
        if budget is not None and not budget > 0:
            raise ValueError(f"{name} must be above 0, got {budget}")
    if latency_ms is None and memory_bytes is None:
        raise ValueError("give a budget: latency_ms, memory_bytes or both")
    if network not in NETWORKS:
        raise ValueError(f"unknown network {network!r}: there are {', '.join(NETWORKS)}")
    threads = threads or cores()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        progress("measuring the network as it is", 0)
        search = _Search(network, batch, latency_ms, memory_bytes, measure or optimized_latency)
        base = search.candidate("nothing", 0.0, Scaling())
        candidates = [base]
        ways = ways_to_grow(alpha, beta, gamma)
        for index, (grows, scaling) in enumerate(ways.items()):
            share = part(progress, (1 + index) / 5, (2 + index) / 5)
            largest, last = search.largest(grows, scaling, base, share)
            if grows == "all three":
                if largest is None:
                    raise ValueError(f"no {network} is small enough: {described(last)}")
                together = largest
            if largest is not None and largest is not base:
                candidates.append(largest)
        for candidate in candidates:
            if candidate.latency_ms is None:
                progress(f"measuring the network with {candidate.grows} grown", 1)
                search.time(candidate)
        best = together
        if together is base:
            best = max(candidates, key=lambda candidate: candidate.multiplications)
    finally:
        torch.set_num_threads(before)
    return Advice(
        network=network,
        batch=batch,
        threads=threads,
        processor=processor_name(),
        budget_ms=latency_ms,
        budget_bytes=memory_bytes,
        candidates=candidates,
        best=best,
    )


def described(candidate: Candidate) -> str:
    took = f"{candidate.memory_bytes / 2**20:.1f} MB"
    if candidate.latency_ms is not None:
        took += f" and {candidate.latency_ms:.3g} ms"
    return f"phi {candidate.phi:g} takes {took}"


class _Search:
    """Candidates of one family against one budget."""

    def __init__(
        self,
        network: str,
        batch: int,
        latency_ms: float | None,
        memory_bytes: float | None,
        measure: Callable[[EfficientNet, int], float],
    ) -> None:
        self.lite = NETWORKS[network]
        self.batch = batch
        self.latency_ms = latency_ms
        self.memory_bytes = memory_bytes
        self.measure = measure

    def candidate(self, grows: str, phi: float, scaling: Scaling) -> Candidate:
        with torch.device("meta"):
            counted = efficientnet(scaling, lite=self.lite)
        report = cost(counted, (self.batch, *counted.input_size))
        candidate = Candidate(
            grows=grows,
            phi=phi,
            depth=scaling.depth,
            width=scaling.width,
            resolution=counted.input_size[1],
            parameters=report.parameters,
            multiplications=report.multiplications,
            memory_bytes=report.parameter_bytes + report.peak_activation_bytes,
        )
        if self.latency_ms is not None and self.room(candidate) >= 1:
            self.time(candidate)
        return candidate

    def time(self, candidate: Candidate) -> None:
        resolution = candidate.resolution / RESOLUTION
        scaling = Scaling(candidate.depth, candidate.width, resolution)
        model = efficientnet(scaling, lite=self.lite).eval()
        candidate.latency_ms = self.measure(model, self.batch)

    def room(self, candidate: Candidate) -> float:
        """How many times as much the candidate could take, as far as it was measured."""
        rooms = []
        if self.memory_bytes is not None:
            rooms.append(self.memory_bytes / candidate.memory_bytes)
        if self.latency_ms is not None and candidate.latency_ms is not None:
            rooms.append(self.latency_ms / candidate.latency_ms)
        return min(rooms, default=1.0)

    def largest(
        self,
        grows: str,
        scaling: Callable[[float], Scaling],
        base: Candidate,
        progress: Progress,
    ) -> tuple[Candidate | None, Candidate]:
        """The largest candidate within the budget, if any, and the last one tried.

        A bisection that looks first where the room left by the last candidate says, as the work
        grows about 2^phi times.
        """
        best, last = None, base
        fitting, failing = LEAST - STEP, MOST + STEP
        if self.room(base) >= 1:
            best, fitting = base, 0.0
        else:
            failing = 0.0
        while failing - fitting > STEP:
            progress(
                f"measuring networks with {grows} grown", 1 - (failing - fitting) / (MOST - LEAST)
            )
            guess = last.phi + floor(log2(self.room(last)) / STEP) * STEP
            phi = min(max(guess, fitting + STEP), failing - STEP)
            last = self.candidate(grows, phi, scaling(phi))
            if self.room(last) >= 1:
                best, fitting = last, phi
            else:
                failing = phi
        return best, last


def optimized_latency(model: EfficientNet, batch: int) -> float:
    """Milliseconds of one inference of fastconv.optimize(model): the median of half a second."""
    image = torch.randn(batch, *model.input_size)
    fast = optimize(model, (image,))
    names = {"fast": fast, "image": image}
    timer = Timer("fast(image)", globals=names, num_threads=torch.get_num_threads())
    timer.timeit(2)
    return 1e3 * timer.blocked_autorange(min_run_time=0.5).median
