"""A network in fastconv and in its rivals: same weights and image, outputs checked, then timed."""

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from fastconv.machine import cores, processor_name
from fastconv.peers import BASELINES, DEFAULT_PEERS, PEERS, Peer
from fastconv.peers.entrant import (
    TOLERANCE,
    Cold,
    ComparisonError,
    Entrant,
    Rival,
    judge,
    require_torch,
    skip_missing,
    summarise,
)
from fastconv.peers.model import build_model, input_size, save_job, settle_batch_norms
from fastconv.peers.process import PeerProcess
from fastconv.peers.turns import Turn, rounds_in_turn
from fastconv.progress import Progress, part, silent

PREPARE_SHARE, WARM_SHARE = 0.5, 0.85  # where these parts of the work end in the progress bar
COLD_SECONDS = 0.25  # of the seconds of warm timing
COLD_ROUNDS = 3  # at least: it is no ratio, and has no interval


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
    interrupted: bool = False  # cut short while rivals were timed: fewer rounds than asked for

    @property
    def ok(self) -> bool:
        return all(rival.status in ("ok", "skipped") for rival in self.rivals)


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
    others are measured against it, in whichever layout is faster. Ctrl-C after the first round
    ends the timing; what was measured is returned, marked as interrupted.
    Raises ValueError for an unknown name or a network that takes no image of its `input_size`,
    ComparisonError when plain torch's own process fails or no other rival is installed.
    """
    chosen = choose_peers(peers)
    threads = threads or cores()
    if network is None:
        torch.manual_seed(0)
        network = build_model(model)
        with explained(model, input_size(network)):
            settle_batch_norms(network, torch.randn(4, *input_size(network)))
    rivals = [Rival(peer.name, peer.title) for peer in chosen]
    for peer, rival in zip(chosen, rivals, strict=True):
        skip_missing(peer, rival)
    require_rivals(rivals)
    image = torch.randn(batch, *input_size(network), generator=torch.Generator().manual_seed(0))
    with explained(model, input_size(network)), torch.no_grad():
        expected = network.eval()(image)

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fastconv-")))
        save_job(folder, network, image)
        # All processes start at once, to import their libraries side by side.
        entrants = [
            Entrant(rival, stack.enter_context(PeerProcess(PEERS[rival.name], threads)))
            for rival in rivals
            if rival.status == "ok"
        ]
        job = {"model": model, "folder": str(folder), "dtype": dtype, "threads": threads}
        for index, entrant in enumerate(entrants):
            progress(f"preparing {entrant.rival.title}", PREPARE_SHARE * index / len(entrants))
            entrant.prepare(PEERS[entrant.rival.name], job, expected)
        require_torch(rivals)
        judge(rivals, TOLERANCE[dtype])
        ready = [entrant for entrant in entrants if entrant.ready]
        rounds, interrupted = time_rivals(ready, seconds, progress)

    baseline = summarise([entrant.rival for entrant in ready], rounds)
    require_torch(rivals)
    assert baseline is not None
    return Comparison(
        model=model,
        dtype=dtype,
        threads=threads,
        input_shape=tuple(image.shape),
        processor=processor_name(),
        cores=cores(),
        rounds=len(rounds),
        baseline=baseline,
        rivals=rivals,
        interrupted=interrupted,
    )


def time_rivals(
    entrants: Sequence[Entrant], seconds: float, progress: Progress
) -> tuple[list[list[Turn]], bool]:
    """The rounds with warm caches, and whether Ctrl-C cut the timing short.

    Notes the times with cold caches, which are taken afterwards.
    """
    rounds: list[list[Turn]] = []
    try:
        warm = part(progress, PREPARE_SHARE, WARM_SHARE)
        for turns in rounds_in_turn(entrants, seconds, warm):
            rounds.append(turns)
        note_cold_times(entrants, seconds, part(progress, WARM_SHARE, 1))
    except KeyboardInterrupt:
        if not rounds:
            raise
        return rounds, True
    return rounds, False


def note_cold_times(entrants: Sequence[Entrant], seconds: float, progress: Progress) -> None:
    runners = [Cold(entrant) for entrant in entrants]
    seconds *= COLD_SECONDS
    rounds = list(rounds_in_turn(runners, seconds, progress, least=COLD_ROUNDS))
    for index, entrant in enumerate(entrants):
        times = [second for turns in rounds for second in turns[index]]
        if times:
            entrant.rival.cold_ms = 1e3 * statistics.median(times)


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


def require_rivals(rivals: Sequence[Rival]) -> None:
    """Raises where every rival that was asked for beside plain torch is not installed."""
    others = [rival for rival in rivals if rival.name not in BASELINES]
    if others and all(rival.status == "skipped" for rival in others):
        reasons = "; ".join(f"{rival.title} {rival.reason}" for rival in others)
        raise ComparisonError(f"there is no rival to compare torch with: {reasons}")
