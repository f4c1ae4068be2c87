"""A rival in a race: its process, its answer held against the right one, its figures."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import BASELINES, Peer, install_command
from .process import PeerError, PeerProcess
from .ratios import median_interval, median_ratio, ratios
from .turns import Turn

PREPARE_TIMEOUT = 300.0
TURN_TIMEOUT = 120.0
COLD_CALLS = 4  # a turn; emptying the caches takes far longer than the call that follows
# A rival is right when it is this near to the right answer, relative to its largest value, or at
# most TORCH_ERRORS times as far off as plain torch in the same dtype. Seen on efficientnet_lite0
# with random weights: at most 6e-6 in float32; in bfloat16 torch 7e-2, OpenVINO 6e-2.
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2, "float16": 5e-3}
TORCH_ERRORS = 2.0


class ComparisonError(RuntimeError):
    """There is nothing to compare: plain torch did not run, or no rival is installed."""


@dataclass
class Rival:
    """One rival's result. `status` is ok, wrong, skipped or failed; `reason` says why not ok."""

    name: str
    title: str
    status: str = "ok"
    reason: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    implementations: dict[str, int] = field(default_factory=dict)  # kernels, and calls of each
    difference: float | None = None  # from the right answer, relative to its largest value
    prepare_seconds: float | None = None
    first_call_ms: float | None = None
    memory_bytes: int | None = None  # at most in a call, beyond torch, the weights and the image
    median_ms: float | None = None
    fastest_ms: float | None = None
    quartiles_ms: tuple[float, float] | None = None
    cold_ms: float | None = None  # median, with empty caches
    speedup: float | None = None  # baseline's time / this time, median over rounds
    speedup_interval: tuple[float, float] | None = None  # holds the true median, 95 %


@dataclass
class Entrant:
    """A rival with its process, which answers until it fails."""

    rival: Rival
    process: PeerProcess

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        """The answer; empty, with the reason noted, when the process fails or has failed."""
        if self.rival.status == "failed":
            return {}
        try:
            return self.process.ask(request, timeout)
        except PeerError as error:
            self.rival.status, self.rival.reason = "failed", str(error)
            return {}

    def prepare(self, peer: Peer, job: dict[str, Any], expected: Tensor) -> None:
        """Has the rival make its call, and holds the answer against what is expected."""
        file = Path(job["folder"]) / f"{self.rival.name}.output.pt"
        request = {**job, "packages": peer.needs, "output": str(file)}
        answer = self.ask({"prepare": request}, PREPARE_TIMEOUT)
        if "unsupported" in answer:
            self.rival.status, self.rival.reason = "skipped", answer["unsupported"]
        if "versions" not in answer:
            return
        self.rival.versions = answer["versions"]
        self.rival.prepare_seconds = answer["prepare_seconds"]
        self.rival.first_call_ms = 1e3 * answer["first_call_seconds"]
        self.rival.memory_bytes = answer["memory_bytes"]
        measure_difference(self.rival, torch.load(file, weights_only=True), expected)
        answer = self.ask({"describe": True}, PREPARE_TIMEOUT)
        self.rival.implementations = answer.get("implementations", {})

    @property
    def ready(self) -> bool:
        return self.rival.status in ("ok", "wrong") and self.rival.prepare_seconds is not None

    def run(self, calls: int, warm_up: int) -> Turn:
        return self.ask({"run": calls, "warm_up": warm_up}, TURN_TIMEOUT).get("seconds", [])


@dataclass
class Cold:
    """The same rival, its caches emptied before each call."""

    entrant: Entrant

    def run(self, calls: int, warm_up: int) -> Turn:
        request = {"run": min(calls, COLD_CALLS), "warm_up": 1, "cold": True}
        return self.entrant.ask(request, TURN_TIMEOUT).get("seconds", [])


def skip_missing(peer: Peer, rival: Rival) -> None:
    if missing := peer.missing():
        rival.status = "skipped"
        rival.reason = f"not installed: {install_command(missing)}"


def measure_difference(rival: Rival, output: Tensor, expected: Tensor) -> None:
    if output.shape != expected.shape:
        rival.status = "wrong"
        rival.reason = f"has output {tuple(output.shape)}, wanted {tuple(expected.shape)}"
        return
    difference = ((output - expected).abs().max() / expected.abs().max()).item()
    if math.isfinite(difference):
        rival.difference = difference
    else:
        rival.status, rival.reason = "wrong", "answers NaN or infinity, or torch does"


def judge(rivals: Sequence[Rival], tolerance: float) -> None:
    """Marks as wrong the rivals that differ too much from the right answer."""
    torches = [r.difference for r in rivals if r.name in BASELINES and r.difference is not None]
    allowed = max(tolerance, TORCH_ERRORS * max(torches, default=0.0))
    for rival in rivals:
        if rival.difference is not None and rival.difference > allowed:
            rival.status = "wrong"
            rival.reason = (
                f"differs from torch by {rival.difference:.2g} of the largest output, "
                f"at most {allowed:.2g} is right"
            )


def require_torch(rivals: Sequence[Rival]) -> None:
    torches = [rival for rival in rivals if rival.name in BASELINES]
    if all(rival.status == "failed" for rival in torches):
        reasons = "; ".join(rival.reason for rival in torches)
        raise ComparisonError(
            f"plain torch did not run, so there is nothing to compare with: {reasons}"
        )


def summarise(rivals: Sequence[Rival], rounds: Sequence[Sequence[Turn]]) -> str | None:
    """Fills in the times of each rival that did not fail; returns the name of the baseline.

    rounds: each a turn of every rival, in their order. Without plain torch there are no ratios.
    """
    medians: dict[str, list[float]] = {}
    for index, rival in enumerate(rivals):
        if rival.status == "failed":
            continue
        turns = [turns[index] for turns in rounds]
        calls = sorted(1e3 * second for turn in turns for second in turn)
        first, middle, third = statistics.quantiles(calls, n=4)
        rival.median_ms, rival.fastest_ms, rival.quartiles_ms = middle, calls[0], (first, third)
        medians[rival.name] = [statistics.median(turn) for turn in turns]
    baseline = faster_torch(medians)
    if baseline is None:
        return None
    for rival in rivals:
        if rival.name in medians:
            found = ratios(medians[baseline], medians[rival.name])
            rival.speedup = statistics.median(found)
            rival.speedup_interval = median_interval(found)
    return baseline


def faster_torch(medians: Mapping[str, Sequence[float]]) -> str | None:
    """Of the baselines the one with the least time, compared within rounds."""
    torches = [name for name in BASELINES if name in medians]
    if not torches:
        return None
    return max(torches, key=lambda name: median_ratio(medians[torches[0]], medians[name]))
