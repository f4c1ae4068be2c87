"""The demo's predictions, photo by photo."""

from rich.table import Table
from rich.text import Text

from fastconv.demo import Answer, Demo
from fastconv.tables.common import plain_table


def predictions(demo: Demo) -> Table:
    table = plain_table(f"{demo.model} on {len(demo.predictions)} photos")
    for column in ("photo", "label", "torch", "p", "fastconv", "p", "right"):
        table.add_column(column, justify="right" if column == "p" else "left")
    for row in demo.predictions:
        table.add_row(
            row.photo.rsplit("_", 1)[0],
            short(row.name),
            *answer(row.torch),
            *answer(row.fastconv),
            "yes" if row.fastconv.label == row.label else Text("no", style="yellow"),
            style=None if row.torch.label == row.fastconv.label else "red",
        )
    return table


def answer(answer: Answer) -> tuple[str, str]:
    return short(answer.name), f"{answer.probability:.2f}"


def short(name: str) -> str:
    """The first synonym of an ImageNet class name."""
    return name.split(",")[0]


def verdict(demo: Demo) -> Text:
    count = len(demo.predictions)
    same = "the same predictions" if demo.identical else ("not the same predictions", "red")
    right = f"torch {demo.right_torch} of {count}, fastconv {demo.right_fastconv} of {count}"
    return Text.assemble(f"Top-1 right: {right}; ", same, ".\n")
