"""Training runs, evaluations and predictions."""

from rich.table import Table

from fastconv.recipes.checkpoint import Checkpoint
from fastconv.recipes.evaluate import Evaluation
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


def evaluation(found: Evaluation) -> tuple[Table, Table]:
    """The whole, and a row for each class."""
    whole = plain_table(f"{found.images} images of {found.data}, crops: {found.crops}")
    for column in ("network", "top-1", f"top-{found.k}", "mAP"):
        whole.add_column(column, justify="left" if column == "network" else "right")
    together = (f"{found.top1:.2%}", f"{found.topk:.2%}", f"{found.mean_average_precision:.4f}")
    if len(found.members) > 1:
        for name, top1 in found.members.items():
            whole.add_row(name, f"{top1:.2%}", "", "")
        whole.add_row("all, averaged", *together)
    else:
        whole.add_row(*found.members, *together)
    classes = plain_table("average precision")
    classes.add_column("class")
    classes.add_column("AP", justify="right")
    for name, precision in found.average_precision.items():
        classes.add_row(name, f"{precision:.4f}")
    return whole, classes


def predicted(found: dict[str, dict[str, float]]) -> Table:
    table = plain_table("")
    table.add_column("image")
    table.add_column("class")
    table.add_column("p", justify="right")
    for path, classes in found.items():
        for name, share in classes.items():
            table.add_row(path, name, f"{share:.3f}")
            path = ""
    return table
