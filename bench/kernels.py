"""A case on the CPU: ours and its rivals, each in a process of its own, checked, timed in turn."""

import json
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.cases import DTYPES, Case
from bench.processes import KEEPING_MEMORY
from bench.shapes import Shape
from fastconv import _C
from fastconv.peers import PEERS, Peer
from fastconv.peers.entrant import Entrant, Rival, judge, skip_missing, summarise
from fastconv.peers.model import save_job
from fastconv.peers.process import PeerProcess
from fastconv.peers.turns import Turn, rounds_in_turn
from fastconv.profiling.record import Roofs
from fastconv.profiling.roofline import least_seconds, measure_roofs
from fastconv.progress import silent

COMPUTED_IN = (torch.float32, torch.bfloat16)  # float16 is widened to float32
TURN_SECONDS = 0.03  # a third of a network's turn: most calls take under a millisecond
# Against float64, relative to the largest value. Seen over the quick cases: 7e-7 in float32; a half
# unit in the last place of the output is 2e-3 in bfloat16 and 2.4e-4 in float16.
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 1.5e-3}


@dataclass(frozen=True)
class Racer:
    """A function, by a rival's way to call it: its layout, its compiler, its engine.

    function: of the case, "ours", "theirs" or one of its forms; forward_only: of what has no
    gradients; isa: the instruction set that ours is forced to, None for the best.
    """

    rival: str
    layout: str
    peer: Peer
    function: str = "theirs"
    forward_only: bool = True
    isa: str | None = None

    def __str__(self) -> str:
        return f"{self.layout}-{self.rival}"

    @property
    def name(self) -> str:
        """In a race: torch's own are its baselines."""
        return self.peer.name if self.function == "theirs" else str(self)


PLAIN = {"nchw": PEERS["torch"], "nhwc": PEERS["torch-channels-last"]}
# Engines and optimize get contiguous images, as their users have them, and may reorder within.
RACERS = [
    *(Racer("fastconv", layout, peer, "ours", False) for layout, peer in PLAIN.items()),
    *(Racer("torch", layout, peer, "theirs", False) for layout, peer in PLAIN.items()),
    Racer("inductor", "nhwc", PEERS["inductor"]),
    Racer("optimized", "nchw", PEERS["fastconv"]),
    Racer("onnxruntime", "nchw", PEERS["onnxruntime"]),
    Racer("openvino", "nchw", PEERS["openvino"]),
]


ISAS = [isa for isa in _C.isas() if isa != "amx_emulated"]  # which is there for the tests


def racers_of(case: Case) -> list[Racer]:
    return [r for r in RACERS if case.direction == "forward" or not r.forward_only]


def variants_of(case: Case) -> list[Racer]:
    """Ours by other kernels than the one that is chosen: other forms, lesser instruction sets."""
    forms = [Racer(f"fastconv-{f}", "nhwc", PLAIN["nhwc"], f, False) for f in case.forms]
    return forms + [
        Racer(f"fastconv-{isa}", layout, peer, "ours", False, isa)
        for isa in ISAS
        for layout, peer in PLAIN.items()
        if isa != _C.isa()
    ]


class Task(nn.Module):
    """A function of a case as a network: the first tensor is the image, the others are weights."""

    def __init__(self, case: Case, function: str) -> None:
        super().__init__()
        self.function = case.function(function)
        shapes = case.derive([torch.empty(size, device="meta") for size in case.sizes])
        weights = (nn.Parameter(torch.empty(t.shape), requires_grad=False) for t in shapes[1:])
        self.weights = nn.ParameterList(weights)

    def forward(self, image: Tensor) -> Tensor:
        return self.function(image, *self.weights)


def task_name(case: Case, function: str) -> str:
    """By which a rival's process builds the task: fastconv.peers.model.build_model."""
    fields = (function, case.layer, case.batch, case.dtype_name, case.direction)
    return f"bench.kernels:task:{json.dumps(fields)}"


def task(text: str) -> Task:
    function, layer, batch, dtype, direction = json.loads(text)
    return Task(Case(Shape(*layer), batch, DTYPES[dtype], direction), function)


@dataclass
class Result:
    """Of one race: each rival by its racer, with its turns."""

    rivals: dict[Racer, Rival]
    turns: dict[Racer, list[Turn]]
    baseline: str | None  # torch in its faster layout, if it took part


class Races:
    """Runs races; a rival's process lives through all of them, for it takes seconds to start."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.processes: dict[Racer, PeerProcess] = {}

    def process(self, racer: Racer) -> PeerProcess:
        if racer not in self.processes:
            forced = {} if racer.isa is None else {"FASTCONV_ISA": racer.isa}
            self.processes[racer] = PeerProcess(racer.peer, self.threads, KEEPING_MEMORY | forced)
        return self.processes[racer]

    def close(self) -> None:
        for process in self.processes.values():
            process.close()

    def run(self, case: Case, racers: Iterable[Racer], seconds: float | None) -> Result:
        """Checks all, then times them for about so many seconds; None: only checks."""
        rivals = {racer: Rival(racer.name, str(racer)) for racer in racers}
        for racer, rival in rivals.items():
            skip_missing(racer.peer, rival)
        entrants = {
            racer: Entrant(rival, self.process(racer))
            for racer, rival in rivals.items()
            if rival.status == "ok"
        }
        self.prepare(case, entrants)
        judge(list(rivals.values()), TOLERANCE[case.dtype_name])
        ready = {racer: entrant for racer, entrant in entrants.items() if entrant.ready}
        rounds: list[list[Turn]] = []
        baseline = None
        if seconds is not None:
            rounds = list(rounds_in_turn(list(ready.values()), seconds, silent, TURN_SECONDS))
            baseline = summarise([entrant.rival for entrant in ready.values()], rounds)
        for racer, rival in rivals.items():
            if rival.status == "failed":  # its process is dead; the next case gets a new one
                self.processes.pop(racer).close()
        turns = {racer: [r[index] for r in rounds] for index, racer in enumerate(ready)}
        return Result(rivals, turns, baseline)

    def prepare(self, case: Case, entrants: dict[Racer, Entrant]) -> None:
        torch.manual_seed(0)
        image, *weights = case.inputs()
        doubles = (tensor.double() for tensor in (image, *weights))
        expected = case.theirs(*doubles).detach()
        network = Task(case, "theirs")
        network.load_state_dict({f"weights.{i}": weight for i, weight in enumerate(weights)})
        with tempfile.TemporaryDirectory(prefix="fastconv-") as folder:
            save_job(Path(folder), network, image)
            job = {"folder": folder, "dtype": case.dtype_name, "threads": self.threads}
            for racer, entrant in entrants.items():
                job["model"] = task_name(case, racer.function)
                entrant.prepare(racer.peer, job, expected)


def ran_reference(case: Case, rival: Rival) -> bool:
    """Whether torch's convolution ran a path that nobody tuned: no feat to be faster than that.

    That is oneDNN's own reference, or, in 16 bits, torch's loops in place of oneDNN.
    """
    if "conv2d" not in case.op or not rival.name.startswith("torch"):
        return False
    names = list(rival.implementations)
    untuned = any(re.match(r"\w+ ref", name) for name in names if not name.startswith("reorder"))
    return untuned or (case.dtype != torch.float32 and not names)


def measured_roofs() -> dict[str, Roofs]:
    """By the dtype that is computed in."""
    return {str(d).removeprefix("torch."): measure_roofs(d) for d in COMPUTED_IN}


def roof(case: Case, roofs: dict[str, Roofs]) -> tuple[float, str]:
    """The least seconds that the machine allows, and what sets them."""
    return least_seconds(roofs.get(case.dtype_name, roofs["float32"]), case.flops, case.bytes)


def row(case: Case, racer: Racer, result: Result, roofs: dict[str, Roofs]) -> dict[str, Any]:
    """What a row says beside pytest-benchmark's figures."""
    rival = result.rivals[racer]
    floor, bound = roof(case, roofs)
    torches = [r for r in result.rivals.values() if r.name == result.baseline]
    return {
        "case": str(case),
        "op": case.op,
        "direction": case.direction,
        "dtype": case.dtype_name,
        "batch": case.batch,
        "layout": racer.layout,
        "rival": racer.rival,
        "bytes": case.bytes,
        "flops": case.flops,
        "bound_by": bound,
        "share_of_roof": floor / (1e-3 * rival.median_ms) if rival.median_ms else None,
        "versions": rival.versions,
        "implementations": rival.implementations,
        "reference_path": ran_reference(case, rival),
        "error": rival.difference,
        "baseline": result.baseline,
        "baseline_reference_path": any(ran_reference(case, r) for r in torches),
        "speedup": rival.speedup,
        "speedup_interval": rival.speedup_interval,
    }
