"""Training runs, evaluations and predictions."""

from rich.table import Table

from fastconv.recipes.checkpoint import Checkpoint
from fastconv.tables.common import plain_table

SHOWN = 10  # epochs of a run


def training(trained: Checkpoint) -> Table:
    """Some of the epochs, evenly chosen, the last among them."""
    recipe, history = trained.recipe, trained.history
    layers = "our layers" if recipe.swapped else "torch's layers"
    table = plain_table(f"{recipe.network} on {recipe.data}, {recipe.form}, {layers}")
    for column in ("epoch", "loss", "held out, right", "seconds"):
        table.add_column(column, justify="right")
    step = max(1, -(-len(history) // SHOWN))
    for number in range(len(history) % step or step, len(history) + 1, step):
        epoch = history[number - 1]
        row = (f"{epoch.loss:.3f}", f"{epoch.accuracy:.2%}", f"{epoch.seconds:.2f}")
        table.add_row(str(number), *row)
    table.caption = f"{sum(epoch.seconds for epoch in history):.1f} s in all"
    return table
