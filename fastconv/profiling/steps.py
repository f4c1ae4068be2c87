"""A network run step by step: calls of torch's modules, or nodes of an optimized graph.

A run calls `mark(owner)` at the end of each stretch of work, so that whoever marks can read a
clock, count bytes or write into a log. In torch the owner is the innermost module that is running,
named as torch.export names its calls: "conv", and "conv@1" the second time.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from time import perf_counter
from typing import Any

import torch
from torch import fx, nn

from fastconv.optimize.module import OptimizedModule
from fastconv.profiling.record import LackingError

Mark = Callable[[str], None]
Call = Callable[[], Any]


@contextmanager
def marked_modules(model: nn.Module, mark: Mark) -> Iterator[nn.Module]:
    """Has the model's modules mark where they begin and end."""
    names = {module: name for name, module in model.named_modules()}
    running: list[str] = []
    calls: Counter[str] = Counter()

    def enter(module: nn.Module, _inputs: Any) -> None:
        if running:
            mark(running[-1])
        else:
            calls.clear()
            mark("")
        name = names[module]
        running.append(f"{name}@{calls[name]}" if calls[name] else name)
        calls[name] += 1

    def leave(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        mark(running.pop())

    with ExitStack() as hooks:
        for module in names:
            hooks.callback(module.register_forward_pre_hook(enter).remove)
            hooks.callback(module.register_forward_hook(leave, always_call=True).remove)
        yield model


class _MarkedGraph(fx.Interpreter):
    """Runs a graph node by node, which takes longer but can be watched by torch's modes."""

    def __init__(self, module: fx.GraphModule, mark: Mark) -> None:
        super().__init__(module)
        self.mark = mark
        self.extra_traceback = False

    def run_node(self, node: fx.Node) -> Any:
        result = super().run_node(node)
        if node.op.startswith("call"):
            self.mark(node.name)
        return result


@contextmanager
def marked(network: nn.Module, mark: Mark, timed: bool = False) -> Iterator[Callable[..., Any]]:
    """The network as a function that marks its steps.

    Args:
        timed: runs an optimized network as it runs for its user, in its planned memory. If not, it
            runs node by node, so that torch's modes see each of its ops.
    """
    if not isinstance(network, OptimizedModule):
        with marked_modules(network, mark):
            yield network
    elif timed:
        yield network.marked(mark)
    else:
        yield lambda *inputs: _MarkedGraph(network.graph, mark).run(*inputs)


class Clock:
    """Times the calls of a network, in all and between its marks.

    Attributes:
        owners: of the stretches of a call, in order; the last, what is after the last mark, is "".
        stretches: for each call the seconds of each stretch.
        totals: for each call its seconds.
        planned: whether an optimized network runs in its planned memory, which is on the CPU only.
    """

    planned = True

    def __init__(self) -> None:
        self.call: Call | None = None
        self.marks: list[tuple[str, float]] = []
        self.owners: list[str] = []
        self.stretches: list[list[float]] = []
        self.totals: list[float] = []

    def mark(self, owner: str) -> None:
        self.marks.append((owner, perf_counter()))

    def run(self, calls: int, warm_up: int) -> list[float]:
        """As time_in_turn wants it: the seconds of each of `calls` calls, which are kept too."""
        assert self.call is not None
        for _ in range(warm_up):
            self.call()
        before = len(self.totals)
        for _ in range(calls):
            self.marks.clear()
            start = perf_counter()
            self.call()
            self.mark("")
            times = [start, *(time for _, time in self.marks)]
            self.keep([owner for owner, _ in self.marks], [b - a for a, b in pairwise(times)])
        return self.totals[before:]

    def keep(self, owners: list[str], seconds: list[float]) -> None:
        """Adds a call: the owners of its stretches, and how long each took."""
        self.owners = self.owners or owners
        if owners != self.owners:
            raise LackingError("the network takes another way at every call")
        self.stretches.append(seconds)
        self.totals.append(sum(seconds))


@contextmanager
def clocked(
    network: nn.Module, inputs: tuple[Any, ...], clock: Clock | None = None
) -> Iterator[Clock]:
    """A clock of the network's steps; one of the processor's, if none is given."""
    clock = clock or Clock()
    with marked(network, clock.mark, timed=clock.planned) as function:
        clock.call = torch.inference_mode()(lambda: function(*inputs))
        yield clock
