"""What a profile holds: plain data, written as JSON and read back."""

from dataclasses import asdict, dataclass, field
from typing import Any, Self

RESTLESS = "The times vary widely: something else is using this machine."
NO_GPU = "No GPU was measured: all times are of the processor."


class LackingError(RuntimeError):
    """A part of a profile cannot be had; the message says why."""


@dataclass
class Part:
    """A layer in torch or in fastconv.

    Attributes:
        ms: the median time of the layer within the running network, None where not measured.
        bytes: what its operations read and write, each of their tensors once an operation.
        kernels: the implementations that served it, those of torch by the names oneDNN gives them.
        share_of_roof: the least time that the machine could take for so many FLOP and bytes, over
            the time taken; None where the roofs were not measured.
        share_of_copy: bytes a second over those of a copy of as many bytes.
        reorders, reorder_ms: hidden changes of layout by oneDNN, or by kernels of cuDNN on a GPU;
            None where neither was read.
        counters: of the GPU: ms, dram_bytes, registers of a thread, and of their peaks
            dram_percent, sm_percent and occupancy_percent (counters.METRICS); empty where none
            were read.
    """

    ms: float | None = None
    bytes: int = 0
    kernels: list[str] = field(default_factory=list)
    share_of_roof: float | None = None
    share_of_copy: float | None = None
    reorders: int | None = None
    reorder_ms: float | None = None
    counters: dict[str, float] = field(default_factory=dict)


@dataclass
class Layer:
    """A step of the optimized network beside the calls of torch's modules that it stands for.

    Attributes:
        flop: floating point operations, a multiplication and its addition being two.
        counted: whether flop is by a formula; if not, it is one for each value of the largest
            tensor of an operation.
        backend: what serves the step in fastconv: "cpu (avx512)", "torch", ...
        reason: why this kernel serves it, or why torch does.
    """

    name: str
    op: str
    input: list[int]
    output: list[int]
    layout: str
    flop: int
    counted: bool
    backend: str
    reason: str
    modules: list[str]
    torch: Part
    fastconv: Part


@dataclass
class Whole:
    """The network as a whole: medians in ms with the quartiles, and the sum over its layers."""

    title: str
    ms: float
    quartiles_ms: tuple[float, float]
    calls: int
    layers_ms: float | None = None


@dataclass
class Roofs:
    """What the machine reached beside the layers, by loops that do nothing else.

    Attributes:
        flops: multiply-adds in registers, FLOP a second in the dtype of the network.
        sizes: bytes moved in one go, ascending.
        read, copy: bytes a second at each of these sizes.
    """

    flops: float
    sizes: list[int]
    read: list[float]
    copy: list[float]


@dataclass
class Start:
    """A network in a process of its own, where nothing had run before; times in ms.

    Attributes:
        prepare: fastconv.optimize; None for torch.
        first, steady: the first call and the median of later ones.
        new_shape, new_shape_steady: the same with one image more; None where the model refuses.
    """

    title: str
    prepare: float | None
    first: float
    steady: float
    new_shape: float | None
    new_shape_steady: float | None


@dataclass
class Alarm:
    """A slow path that torch took in a call of a module, and the median time of that call."""

    side: str  # 'torch' or 'fastconv'
    layer: str
    what: str
    why: str
    ms: float | None


@dataclass
class Profile:
    """One network on one machine. What was not measured is None or empty, and `lacking` says why.

    Attributes:
        environment: names and versions of what the numbers hang on.
        difference: of the two outputs, relative to the largest of torch's.
        memory: for 'torch' and 'fastconv' pairs of the share of the call that is over and the bytes
            that are held from then on.
        alarms: slow paths that torch took, the costliest first.
        unfused: why the model was not rewritten as a whole, where it was only swapped or left.
        lacking: parts of the profile that are not there, each with the reason.
        interrupted: whether the run was stopped before its end.
    """

    model: str
    dtype: str
    device: str
    threads: int
    input: list[list[int]]
    environment: dict[str, str]
    gpu: str = NO_GPU
    difference: float | None = None
    unfused: str = ""
    wholes: dict[str, Whole] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    roofs: Roofs | None = None
    memory: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    starts: dict[str, Start] = field(default_factory=dict)
    alarms: list[Alarm] = field(default_factory=list)
    lacking: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def speedup(self) -> float | None:
        """How many times as fast as torch, in its better layout, fastconv was."""
        if not {"torch", "fastconv"} <= self.wholes.keys():
            return None
        return self.wholes["torch"].ms / self.wholes["fastconv"].ms

    @property
    def restless(self) -> bool:
        """Whether the middle half of a network's times spans a factor of 1.5 (quiet: 1.1)."""
        measured = (self.wholes[side] for side in ("torch", "fastconv") if side in self.wholes)
        return any(high > 1.5 * low for low, high in (whole.quartiles_ms for whole in measured))

    @property
    def on_gpu(self) -> bool:
        return self.gpu != NO_GPU

    @property
    def counted(self) -> bool:
        """Whether hardware counters were read."""
        return any(layer.fastconv.counters for layer in self.layers)

    def peak_memory(self, side: str) -> int | None:
        return max((held for _, held in self.memory.get(side, [])), default=None)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The profile that to_dict gave. Raises ValueError where data is no profile."""
        try:
            parts = {
                "layers": [
                    Layer(**layer | {side: Part(**layer[side]) for side in ("torch", "fastconv")})
                    for layer in data["layers"]
                ],
                "wholes": {name: Whole(**whole) for name, whole in data["wholes"].items()},
                "alarms": [Alarm(**alarm) for alarm in data["alarms"]],
                "starts": {name: Start(**start) for name, start in data["starts"].items()},
                "roofs": None if data["roofs"] is None else Roofs(**data["roofs"]),
            }
            return cls(**data | parts)
        except (TypeError, KeyError) as error:
            raise ValueError(f"this is no profile that fastconv wrote: {error}") from error
