"""Where a step goes: the time of each op beside the least that its bytes and FLOP take."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from rich.table import Table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from fastconv.profiling.record import Roofs
from fastconv.profiling.roofline import least_seconds
from fastconv.tables.common import plain_table

Key = tuple[str, str]  # the op and the shapes of its tensors
WARM_UP = 3


@dataclass
class Spent:
    """In a step: calls of one op, their seconds and the least they could take."""

    calls: float = 0.0
    seconds: float = 0.0
    floor: float = 0.0

    def add(self, other: "Spent") -> None:
        self.calls += other.calls
        self.seconds += other.seconds
        self.floor += other.floor


class Measured(NamedTuple):
    """Seconds of a step, the same under torch's profiler, and what each op spends of the latter."""

    seconds: float
    profiled: float
    spent: dict[Key, Spent]


class Work(TorchDispatchMode):
    """Notes the FLOP of each call, and its bytes: every tensor in or out once."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[Key, list[tuple[float, float]]] = defaultdict(list)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        came = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        held = {t.data_ptr(): t.numel() * t.element_size() for t in came + made}
        count = flop_registry.get(func.overloadpacket)
        flops = count(*args, **kwargs, out_val=out) if count else 0
        name = func._schema.name
        self.calls[name, _shapes([list(t.shape) for t in came])].append((flops, sum(held.values())))
        return out


def _shapes(sizes: list[list[int]]) -> str:
    """Those of images, joined; of vectors and scalars the shape says nothing."""
    return " ".join("x".join(map(str, size)) for size in sizes if len(size) > 1)


def measure(step: Callable[[], Any], steps: int, roofs: Roofs) -> Measured:
    """What each op spends on each shape, by torch's profiler."""
    for _ in range(WARM_UP):
        step()
    with Work() as work:
        step()
    alone = _median_seconds(step, steps)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        watched = _median_seconds(step, steps)
    durations: dict[Key, list[float]] = defaultdict(list)
    for event in profiled.events():
        key = event.name, _shapes([s for s in event.input_shapes or () if isinstance(s, list)])
        if key in work.calls:
            durations[key].append(1e-6 * event.time_range.elapsed_us())
    spent = {}
    for key, calls in durations.items():
        each = len(calls) // steps  # the median step: a moment of other work would be in a mean
        sums = [sum(calls[i : i + each]) for i in range(0, len(calls), each)]
        floors = (least_seconds(roofs, flops, size)[0] for flops, size in work.calls[key] if size)
        spent[key] = Spent(each, median(sums), sum(floors))
    return Measured(alone, watched, spent)


def _median_seconds(step: Callable[[], Any], steps: int) -> float:
    taken = []
    for _ in range(steps):
        began = time.perf_counter()
        step()
        taken.append(time.perf_counter() - began)
    return median(taken)


def table(name: str, measured: Measured, by_shape: bool) -> Table:
    """The ops by their time; the last row is what no op accounts for."""
    total: dict[tuple[str, ...], Spent] = defaultdict(Spent)
    for (op, shapes), one in measured.spent.items():
        total[(op, shapes) if by_shape else (op,)].add(one)
    columns = ["op", *(["shapes"] if by_shape else []), "calls", "ms", "floor ms", "of floor"]
    step, profiled = 1e3 * measured.seconds, 1e3 * measured.profiled
    rows = plain_table(f"{name}: {step:.1f} ms a step, {profiled:.1f} under the profiler")
    for column in columns:
        rows.add_column(column)
    for key, one in sorted(total.items(), key=lambda item: -item[1].seconds):
        if one.seconds >= 1e-3 * measured.profiled:
            rows.add_row(*key, *_cells(one))
    rest = profiled - 1e3 * sum(one.seconds for one in measured.spent.values())
    rows.add_row("autograd, Python, the rest", *[""] * by_shape, "", f"{rest:.2f}", "", "")
    return rows


def _cells(one: Spent) -> Iterator[str]:
    yield f"{one.calls:.0f}"
    yield from (f"{1e3 * seconds:.2f}" for seconds in (one.seconds, one.floor))
    yield f"{one.floor / one.seconds:.2f}"
