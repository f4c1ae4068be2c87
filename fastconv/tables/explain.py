"""Which kernel served each op."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from fastconv.tables.common import plain_table
from fastconv.tables.cost import shape


def explanation(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """A row an op, and how many each backend serves."""
    table = plain_table(title)
    for column in ("op", "input", "dtype", "backend", "variant", "reason"):
        table.add_column(column)
    for row in rows:
        dtype = row["dtype"].removeprefix("torch.")
        table.add_row(
            row["op"], shape(row["input"]), dtype, row["backend"], row["variant"], row["reason"]
        )
    served = Counter(row["backend"] for row in rows)
    table.caption = ", ".join(f"{backend} {count}" for backend, count in served.most_common())
    return table
