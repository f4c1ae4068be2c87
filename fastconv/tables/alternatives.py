"""The ways to do one layer's work, side by side."""

from collections.abc import Sequence

from rich.table import Table

from fastconv.cost.alternatives import Alternative, Task
from fastconv.tables.common import count, plain_table


def alternatives(found: Sequence[Alternative], task: Task) -> Table:
    """Each way with its ratio to the first, and the convolutions it is made of."""
    table = plain_table(
        f"{task.height}x{task.width}x{task.channels}, {task.padding} padding, "
        f"{task.kernel}x{task.kernel}, {task.filters} filters"
    )
    table.add_column("way", no_wrap=True)
    table.add_column("window * pixels * filters", no_wrap=True)
    table.add_column("multiplications", justify="right")
    table.add_column(f"of {found[0].name}", justify="right", no_wrap=True)
    for way in found:
        formula = way.steps[0].formula if len(way.steps) == 1 else ""
        table.add_row(way.name, formula, count(way.multiplications), f"{way.ratio:.2f}")
        for step in way.steps if len(way.steps) > 1 else ():
            table.add_row(f"  {step.name}", step.formula, count(step.multiplications))
    if [way.name for way in found[:2]] == ["conv", "separable"]:
        share = 1 / task.filters + 1 / task.kernel**2
        table.caption = f"separable / conv = 1/{task.filters} + 1/{task.kernel**2} = {share:.2f}"
    return table
