"""What networks cost."""

from collections.abc import Iterable, Sequence

from rich.table import Table

from fastconv.cost.figures import Cost, Figures
from fastconv.tables.common import count, memory, plain_table

COLUMNS = ("parameters", "size", "multiplications", "activations", "FLOP a byte")


def figures(cost: Figures) -> tuple[str, ...]:
    """The cells of COLUMNS."""
    return (
        count(cost.parameters),
        memory(cost.parameter_bytes),
        count(cost.multiplications),
        memory(cost.activation_bytes),
        f"{cost.arithmetic_intensity:.1f}",
    )


def shape(sizes: Sequence[object]) -> str:
    return "x".join(map(str, sizes))


def layer_costs(cost: Cost, name: str | None = None) -> Table:
    """A row for each layer that has a figure, and the sums."""
    table = plain_table(f"{name or cost.model}, input {shape(cost.input_shape)}")
    for column in ("layer", "type", "output"):
        table.add_column(column)
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for layer in cost.layers:
        if layer.parameters or layer.activation_bytes or layer.multiplications:
            output = shape(layer.output_shape) if layer.calls else "not run"
            table.add_row(layer.name or "itself", layer.type, output, *figures(layer))
    table.add_section()
    table.add_row("all", "", "", *figures(cost))
    peak = memory(cost.peak_activation_bytes)
    frozen = cost.parameters - cost.trainable_parameters
    table.caption = f"{peak} of activations at most at one time; {count(frozen)} frozen parameters"
    return table


def costs(reports: Iterable[tuple[str, Cost]]) -> Table:
    """A row for each network."""
    table = plain_table("One inference")
    for name in ("network", "input"):
        table.add_column(name)
    for name in (*COLUMNS, "peak activations"):
        table.add_column(name, justify="right")
    for name, cost in reports:
        peak = memory(cost.peak_activation_bytes)
        table.add_row(name, shape(cost.input_shape), *figures(cost), peak)
    return table
