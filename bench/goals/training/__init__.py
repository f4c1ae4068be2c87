"""A training step of MobileNetV2: forward, backward, SGD; each rival in a process of its own."""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import torch

from bench.goals.figures import Figure, Row
from bench.processes import KEEPING_MEMORY, variables
from fastconv.machine import cores
from fastconv.peers import Peer
from fastconv.peers.model import build_model, save_job
from fastconv.peers.process import PeerProcess
from fastconv.peers.ratios import median_ratio
from fastconv.peers.turns import rounds_in_turn
from fastconv.progress import silent

MODEL, BATCH = "mobilenet_v2", 16
TIMEOUT = 300.0
ROUNDS = 11  # at least: page faults swing from step to step
RIVALS = [
    ("contiguous", "float32"),
    ("channels_last", "float32"),
    ("swapped", "float32"),
    ("swapped", "bfloat16"),
]
# The loss of the first step against float32 torch's.
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}


class Trainer:
    """One rival's process; it answers with the seconds of its steps."""

    def __init__(self, process: PeerProcess) -> None:
        self.process = process

    def run(self, calls: int, warm_up: int) -> list[float]:
        return self.process.ask({"run": calls, "warm_up": warm_up}, TIMEOUT)["seconds"]


def race(seconds: float) -> list[list[float]]:
    """The median of each round's steps, for each rival."""
    torch.manual_seed(0)
    model = build_model(MODEL)
    image = torch.randn(BATCH, 3, 224, 224)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fastconv-")))
        save_job(folder, model, image)
        trainers, losses = [], []
        for name, dtype in RIVALS:
            peer = Peer(name, name, f"bench.goals.training.{name}")
            process = stack.enter_context(PeerProcess(peer, cores()))
            output = folder / f"{name}-{dtype}.pt"
            job = {"model": MODEL, "folder": str(folder), "dtype": dtype, "threads": cores()}
            process.ask({"prepare": {**job, "packages": [], "output": str(output)}}, TIMEOUT)
            losses.append(float(torch.load(output, weights_only=True)))
            trainers.append(Trainer(process))
        for (name, dtype), loss in zip(RIVALS, losses, strict=True):
            if not abs(loss - losses[0]) <= TOLERANCE[dtype] * losses[0]:
                raise AssertionError(f"{name} {dtype} begins at loss {loss}, torch at {losses[0]}")
        rounds = list(rounds_in_turn(trainers, 10 * seconds, silent, least=ROUNDS))
    return [[median(turns[i]) for turns in rounds] for i in range(len(RIVALS))]


def ratios(seconds: float) -> tuple[float, float]:
    """How many times as fast: ours as torch's better layout, our bfloat16 as our float32."""
    first, last, ours, half = race(seconds)
    return min(median_ratio(first, ours), median_ratio(last, ours)), median_ratio(ours, half)


def measure(seconds: float) -> list[Figure]:
    """As users run it; then with all rivals' malloc told to keep what is freed."""
    float32, bfloat16 = ratios(seconds)
    with variables(KEEPING_MEMORY):
        kept_float32, kept_bfloat16 = ratios(seconds)
    return [
        Figure("float32", float32, 1.8),
        Figure("bfloat16", bfloat16, 1.5, "x our float32"),
        Figure("float32 where malloc keeps memory", kept_float32, None),
        Figure("bfloat16 where malloc keeps memory", kept_bfloat16, None, "x our float32"),
    ]


ROWS = [
    Row(
        "training",
        "MobileNetV2 training step (batch 16, float32; then bfloat16 by autocast) through swap_",
        ">= 1.8x torch eager in its best layout; bfloat16 >= 1.5x our float32",
        measure,
        whole_network=True,
    )
]
