"""What a search for settings found."""

from rich.table import Table

from fastconv.tables.common import plain_table
from fastconv.tuning import Tuning


def tuning(result: Tuning) -> Table:
    """A row a bucket: what is faster than the default there, and by how much."""
    table = plain_table(f"Triton kernels on {result.gpu}")
    for column in ("calls", "settings"):
        table.add_column(column)
    for column in ("default us", "tuned us", "x", "tried", "unfit", "wrong"):
        table.add_column(column, justify="right")
    for row in result.rows:
        changed = ", ".join(f"{name} {value}" for name, value in row.changed.items())
        times = (row.default_microseconds, row.microseconds)
        table.add_row(
            *(row.bucket, changed or "the default", f"{times[0]:.1f}", f"{times[1]:.1f}"),
            f"{times[0] / times[1]:.2f}",
            *map(str, (row.tried, row.unfit, row.wrong)),
        )
    table.caption = f"{result.known} more were tuned before; kept in {result.path}"
    return table
