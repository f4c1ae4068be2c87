"""What the steps of a run compute and move, counted in one pass on the real tensors."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from fastconv.cost.meter import tensors
from fastconv.dispatch import listen
from fastconv.explain import Recorder, layout_name, state_of
from fastconv.profiling.steps import marked


@dataclass
class Figures:
    """Of a step: the work of its operations, its first input and last output.

    Attributes:
        bytes: what the operations read and write, each of its tensors once an operation.
        flop: by the formulas of torch and of our ops.
        elements: of each operation the values of the largest tensor that it reads or writes.
        ops: the names of the operations, views left out.
        served: the rows of fastconv.explain.
    """

    bytes: int = 0
    flop: int = 0
    elements: int = 0
    input: list[int] = field(default_factory=list)
    output: list[int] = field(default_factory=list)
    layout: str = ""
    ops: list[str] = field(default_factory=list)
    served: list[dict[str, Any]] = field(default_factory=list)


class _Traffic(TorchDispatchMode):
    """Adds what each operation moves to the figures of the step that is running."""

    def __init__(self) -> None:
        super().__init__()
        self.figures = Figures()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view:
            return result
        read, written = tensors((args, kwargs)), tensors(result)
        figures = self.figures
        figures.bytes += sum(tensor.nbytes for tensor in (*read, *written))
        figures.elements += max((tensor.numel() for tensor in (*read, *written)), default=0)
        figures.ops.append(str(func.overloadpacket))
        if read and not figures.input:
            figures.input, figures.layout = list(read[0].shape), layout_name(read[0])
        if written:
            figures.output = list(written[-1].shape)
        return result


def count(network: nn.Module, inputs: Sequence[Any]) -> list[tuple[str, Figures]]:
    """The owner and the figures of each stretch of a run."""
    found: list[tuple[str, Figures]] = []
    traffic, flops = _Traffic(), FlopCounterMode(display=False)
    recorder = Recorder(state=state_of(network))
    seen = {"flop": 0, "rows": 0}

    def mark(owner: str) -> None:
        figures = traffic.figures
        figures.flop = flops.get_total_flops() - seen["flop"]
        figures.served = recorder.rows[seen["rows"] :]
        seen["flop"], seen["rows"] = flops.get_total_flops(), len(recorder.rows)
        found.append((owner, figures))
        traffic.figures = Figures()

    watching = marked(network, mark), listen(recorder.add_choice)
    with torch.no_grad(), watching[0] as function, watching[1], flops, recorder, traffic:
        function(*inputs)
    return found


def largest_difference(output: Any, expected: Any) -> float | None:
    """How far two results differ, relative to the largest value; None where they hold no tensor."""
    worst = None
    for ours, theirs in zip(tensors(output), tensors(expected), strict=True):
        ours, theirs = _plain(ours), _plain(theirs)
        scale = theirs.abs().max().item() if theirs.numel() else 0.0
        error = (ours - theirs).abs().max().item() if theirs.numel() else 0.0
        worst = max(worst or 0.0, error / scale if scale else error)
    return worst


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().double()
