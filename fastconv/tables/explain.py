"""Which kernel served each op."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from fastconv.tables.common import plain_table
from fastconv.tables.compare import ms
from fastconv.tables.cost import shape


def explanation(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """A row an op, and how many each backend serves."""
    table = plain_table(title)
    timed = any("ms" in row for row in rows)
    for column in ("layer", "op", "input", "dtype", "layout", "backend", "variant"):
        table.add_column(column)
    for column in ("ms", "of copy") if timed else ():
        table.add_column(column, justify="right")
    table.add_column("reason")
    for row in rows:
        named = (row[name] for name in ("layout", "backend", "variant"))
        times = (ms(row["ms"]), f"{row['share_of_copy']:.0%}") if timed else ()
        dtype = row["dtype"].removeprefix("torch.")
        cells = (row["layer"], row["op"], shape(row["input"]), dtype, *named, *times)
        table.add_row(*cells, row["reason"])
    served = Counter(row["backend"] for row in rows)
    table.caption = ", ".join(f"{backend} {count}" for backend, count in served.most_common())
    if subnormal := sum(row["subnormal_weights"] or 0 for row in rows):
        places = ", ".join(row["layer"] or row["op"] for row in rows if row["subnormal_weights"])
        table.caption += f"; {subnormal} subnormal weights, which slow torch: {places}"
    return table
