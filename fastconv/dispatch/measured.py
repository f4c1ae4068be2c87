"""What `make gpu` measured: measured.json, which bench/gpu/choices.py writes and nobody edits."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from math import inf, log2
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fastconv.dispatch.call import Call, argument_names

PATH = Path(__file__).with_suffix(".json")
VERSION = 1
# Of two calls as near as this in every size the same backend is the fastest, it is assumed; a call
# farther from all that was measured takes the default order.
NEAR = 1.0  # powers of two


class Row(NamedTuple):
    """One call, with the median time of every backend that could do it."""

    gpu: str
    call: Call
    microseconds: Mapping[str, float]


class Measured:
    """Rows to be asked for the fastest backend of a call like one of theirs."""

    def __init__(self, rows: Sequence[Row] = ()) -> None:
        self.rows = rows
        self._alike: dict[tuple[Any, ...], list[tuple[list[int], Row]]] = {}
        for row in rows:
            kind, sizes = _kind_and_sizes(row.call)
            self._alike.setdefault((row.gpu, *kind), []).append((sizes, row))

    def fastest(self, call: Call, gpu: str, able: Sequence[str]) -> tuple[str, str] | None:
        """The fastest of the able backends in the nearest row, and the reason; None if none is."""
        kind, sizes = _kind_and_sizes(call)
        nearest, least = None, inf
        for row_sizes, row in self._alike.get((gpu, *kind), ()):
            pairs = zip(sizes, row_sizes, strict=True)
            distance = max((abs(log2(max(a, 1) / max(b, 1))) for a, b in pairs), default=0.0)
            if distance <= NEAR and distance < least:
                nearest, least = row, distance
        times = {name: nearest.microseconds.get(name, inf) for name in able} if nearest else {}
        if nearest is None or min(times.values()) == inf:
            return None
        backend = min(times, key=lambda name: times[name])
        told = ", ".join(f"{name} {time:.1f} us" for name, time in nearest.microseconds.items())
        shape = "x".join(map(str, nearest.call.arguments[0]))
        return backend, f"{told} for {shape} on {gpu}"


NOTHING_MEASURED = Measured()


def _kind_and_sizes(call: Call) -> tuple[tuple[Any, ...], list[int]]:
    """What two calls must share for one to stand for the other, and the sizes that may differ."""
    kind: list[Any] = [call.op, call.dtype, call.layout]
    sizes: list[int] = []
    for name, value in zip(argument_names(call.op), call.arguments, strict=False):
        if value is None or isinstance(value, str) or name.endswith("bias") or name == "padding":
            kind.append(value is None if name == "residual" else None)
        elif name.endswith("weight") and len(value) == 4:
            kind.append(value[2:])  # the window
            sizes += value[:2]
        elif _is_tensor(call.op, name):
            kind.append(len(value))
            sizes += value
        else:
            kind.append(value)
    return tuple(kind), sizes


@cache
def _is_tensor(op: str, name: str) -> bool:
    schema = getattr(torch.ops.fastconv, op).default._schema
    return any(a.name == name and "Tensor" in str(a.type) for a in schema.arguments)


def read_rows(text: str) -> Measured:
    """The rows of a file like measured.json. Raises ValueError for one of another version."""
    data = json.loads(text)
    if data["version"] != VERSION:
        raise ValueError(f"expected measurements of version {VERSION}, got {data['version']!r}")
    return Measured([_row(row) for row in data["rows"]])


def _row(row: dict[str, Any]) -> Row:
    arguments = tuple(tuple(a) if isinstance(a, list) else a for a in row["arguments"])
    dtype = getattr(torch, row["dtype"])
    return Row(
        row["gpu"],
        Call(row["op"], "cuda", dtype, row["layout"], arguments),
        row["microseconds"],
    )


@cache
def measured_rows() -> Measured:
    """Those that ship with fastconv."""
    return read_rows(PATH.read_text())
