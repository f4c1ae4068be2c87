"""A network in fastconv and in its rivals: same weights and image, outputs checked, then timed."""

import math
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastconv.machine import cores, processor_name
from fastconv.peers import BASELINES, DEFAULT_PEERS, PEERS, Peer, install_command
from fastconv.peers.model import build_model, input_size, save_job, settle_batch_norms
from fastconv.peers.process import PeerError, PeerProcess
from fastconv.peers.turns import time_in_turn
from fastconv.progress import Progress, part, silent

PREPARE_SHARE = 0.5  # of the progress bar
PREPARE_TIMEOUT = 300.0
TURN_TIMEOUT = 120.0
# A rival is right when it is this near to float32 torch, relative to the largest output, or at most
# TORCH_ERRORS times as far off as plain torch in the same dtype. Seen on efficientnet_lite0 with
# random weights: at most 6e-6 in float32; in bfloat16 torch 7e-2, OpenVINO 6e-2.
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}
TORCH_ERRORS = 2.0


class ComparisonError(RuntimeError):
    """Plain torch did not run, so there is nothing to compare with."""


@dataclass
class Rival:
    """One rival's result. `status` is ok, wrong, skipped or failed; `reason` says why not ok."""

    name: str
    title: str
    status: str = "ok"
    reason: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    difference: float | None = None  # from float32 torch, relative to its largest output
    prepare_seconds: float | None = None
    first_call_ms: float | None = None
    median_ms: float | None = None
    fastest_ms: float | None = None
    quartiles_ms: tuple[float, float] | None = None
    speedup: float | None = None  # baseline's time / this time, median over rounds


@dataclass
class Comparison:
    model: str
    dtype: str
    threads: int
    input_shape: tuple[int, ...]
    processor: str
    cores: int
    rounds: int
    baseline: str  # plain torch in its faster layout
    rivals: list[Rival]

    @property
    def ok(self) -> bool:
        return all(rival.status in ("ok", "skipped") for rival in self.rivals)


@dataclass
class Entrant:
    """A rival that is installed, with its process."""

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

    def prepare(self, job: dict[str, Any], expected: Tensor) -> None:
        file = Path(job["folder"]) / f"{self.rival.name}.output.pt"
        packages = PEERS[self.rival.name].needs
        answer = self.ask(
            {"prepare": {**job, "packages": packages, "output": str(file)}}, PREPARE_TIMEOUT
        )
        if "unsupported" in answer:
            self.rival.status, self.rival.reason = "skipped", answer["unsupported"]
        if "versions" not in answer:
            return
        self.rival.versions = answer["versions"]
        self.rival.prepare_seconds = answer["prepare_seconds"]
        self.rival.first_call_ms = 1e3 * answer["first_call_seconds"]
        output = torch.load(file, weights_only=True)
        measure_difference(self.rival, output, expected)

    def run(self, calls: int, warm_up: int) -> list[float]:
        return self.ask({"run": calls, "warm_up": warm_up}, TURN_TIMEOUT).get("seconds", [])


def compare(
    model: str,
    *,
    network: nn.Module | None = None,
    batch: int = 1,
    dtype: str = "float32",
    threads: int | None = None,
    peers: Sequence[str] = DEFAULT_PEERS,
    seconds: float = 10.0,
    progress: Progress = silent,
) -> Comparison:
    """Times `model`, a name in fastconv.models or module:function, in each of `peers`.

    `network` is that model with weights of its own; without it the weights are random.
    `seconds` is about how long all rivals together are timed. Plain torch always runs, because the
    others are measured against it, in whichever layout is faster.
    Raises ValueError for an unknown name or a network that takes no image of its `input_size`,
    ComparisonError when plain torch's own process fails.
    """
    chosen = choose_peers(peers)
    threads = threads or cores()
    if network is None:
        torch.manual_seed(0)
        network = build_model(model)
        with explained(model, input_size(network)):
            settle_batch_norms(network, torch.randn(4, *input_size(network)))
    image = torch.randn(batch, *input_size(network), generator=torch.Generator().manual_seed(0))
    with explained(model, input_size(network)), torch.no_grad():
        expected = network.eval()(image)

    rivals = [Rival(peer.name, peer.title) for peer in chosen]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fastconv-")))
        save_job(folder, network, image)
        # All processes start at once, to import their libraries side by side.
        entrants = [
            Entrant(rival, stack.enter_context(PeerProcess(peer, threads)))
            for peer, rival in zip(chosen, rivals, strict=True)
            if is_installed(peer, rival)
        ]
        job = {"model": model, "folder": str(folder), "dtype": dtype, "threads": threads}
        for index, entrant in enumerate(entrants):
            progress(f"preparing {entrant.rival.title}", PREPARE_SHARE * index / len(entrants))
            entrant.prepare(job, expected)
        ready = [entrant for entrant in entrants if entrant.rival.prepare_seconds is not None]
        require_torch(rivals)
        judge(rivals, dtype)
        times = time_in_turn(ready, seconds, part(progress, PREPARE_SHARE, 1))

    baseline = summarise([entrant.rival for entrant in ready], times)
    return Comparison(
        model=model,
        dtype=dtype,
        threads=threads,
        input_shape=tuple(image.shape),
        processor=processor_name(),
        cores=cores(),
        rounds=max(map(len, times)),
        baseline=baseline,
        rivals=rivals,
    )


@contextmanager
def explained(model: str, size: tuple[int, ...]) -> Iterator[None]:
    """ValueError, in a sentence for the user, where the network does not run on such an image."""
    try:
        yield
    except RuntimeError as error:
        shape = " x ".join(map(str, size))
        raise ValueError(
            f"{model!r} does not run on an image of {shape} (its attribute input_size says the "
            f"size): {error}"
        ) from error


def choose_peers(names: Sequence[str]) -> list[Peer]:
    for name in names:
        if name not in PEERS:
            raise ValueError(f"unknown peer {name!r}: there are {', '.join(PEERS)}")
    wanted = list(dict.fromkeys(names))
    if not any(name in BASELINES for name in wanted):
        wanted.insert(0, BASELINES[0])
    return [PEERS[name] for name in wanted]


def is_installed(peer: Peer, rival: Rival) -> bool:
    missing = peer.missing()
    if missing:
        rival.status = "skipped"
        rival.reason = f"not installed: {install_command(missing)}"
    return not missing


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


def judge(rivals: Sequence[Rival], dtype: str) -> None:
    """Marks as wrong the rivals that differ too much from float32 torch."""
    torches = [r.difference for r in rivals if r.name in BASELINES and r.difference is not None]
    allowed = max(TOLERANCE[dtype], TORCH_ERRORS * max(torches, default=0.0))
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


def summarise(rivals: Sequence[Rival], times: list[list[list[float]]]) -> str:
    """Fills in the times of each rival that did not fail; returns the name of the baseline."""
    require_torch(rivals)
    rounds = {}
    for rival, turns in zip(rivals, times, strict=True):
        if rival.status == "failed":
            continue
        calls = sorted(1e3 * second for turn in turns for second in turn)
        first, middle, third = statistics.quantiles(calls, n=4)
        rival.median_ms, rival.fastest_ms, rival.quartiles_ms = middle, calls[0], (first, third)
        rounds[rival.name] = [statistics.median(turn) for turn in turns]
    torches = [name for name in BASELINES if name in rounds]
    baseline = max(torches, key=lambda name: median_ratio(rounds[torches[0]], rounds[name]))
    for rival in rivals:
        if rival.name in rounds:
            rival.speedup = median_ratio(rounds[baseline], rounds[rival.name])
    return baseline


def median_ratio(theirs: list[float], own: list[float]) -> float:
    """How often as fast `own` is, taken within each round."""
    return statistics.median(a / b for a, b in zip(theirs, own, strict=True))
