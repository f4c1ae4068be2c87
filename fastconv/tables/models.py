"""The networks there are."""

from collections.abc import Sequence

from rich.table import Table

from fastconv.inventory import Entry
from fastconv.tables.common import count, plain_table
from fastconv.tables.cost import shape


def models(entries: Sequence[Entry]) -> Table:
    table = plain_table("fastconv.models")
    table.caption = "our kernels by swap_; optimize takes dense convolutions besides"
    for name in ("network", "input"):
        table.add_column(name)
    for name in ("parameters", "multiplications", "on our kernels"):
        table.add_column(name, justify="right")
    for entry in entries:
        table.add_row(
            entry.name,
            shape(entry.input_shape[1:]),
            count(entry.parameters),
            count(entry.multiplications),
            f"{entry.share:.0%}",
        )
    return table
