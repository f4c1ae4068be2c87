"""What optimize did to each layer."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from fastconv.tables.common import plain_table
from fastconv.tables.cost import shape


def receipt(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """A row a layer, and how many each kernel serves."""
    table = plain_table(title)
    for column in ("layer", "weight", "kernel", "took in", "why"):
        table.add_column(column)
    for row in rows:
        weight = shape(row["weight"]) if row["weight"] else ""
        kernel = row["kernel"] + (f" {row['op']}" if "op" in row else "")
        table.add_row(row["layer"], weight, kernel, ", ".join(_taken_in(row)), _why(row))
    served = Counter(row["kernel"] for row in rows)
    table.caption = ", ".join(f"{kernel} {count}" for kernel, count in served.most_common())
    return table


def _taken_in(row: dict[str, Any]) -> Iterator[str]:
    """What became part of the layer, in the words of the model; of norms their number."""
    squeeze = row.get("squeeze", {"parts": []})
    yield from (part for part in row.get("parts", []) if part != row["layer"])
    yield from squeeze["parts"]
    yield from [squeeze["gate"]] if "gate" in squeeze else []
    if norms := len(row.get("folded", [])):
        yield f"{norms} norm{'s' if norms > 1 else ''}"
    yield from [row["activation"]] if row["activation"] else []
    yield from ["residual"] if row["residual"] else []


def _why(row: dict[str, Any]) -> str:
    times = ", ".join(f"{way} {ms} ms" for way, ms in row.get("measured", {}).items())
    return "; ".join(part for part in (row.get("reason"), times) if part)
