"""Results as rich tables for a terminal."""

from rich import box
from rich.table import Table
from rich.text import Text

from fastconv.compare import Comparison, Rival
from fastconv.demo import Answer, Demo
from fastconv.doctor import Finding


def predictions(demo: Demo) -> Table:
    table = Table(box=box.SIMPLE, title=f"{demo.model} on {len(demo.predictions)} photos")
    for column in ("photo", "label", "torch", "p", "fastconv", "p", "right"):
        table.add_column(column, justify="right" if column == "p" else "left")
    for row in demo.predictions:
        table.add_row(
            row.photo,
            short(row.name),
            *answer(row.torch),
            *answer(row.fastconv),
            "yes" if row.fastconv.label == row.label else "[yellow]no",
            style=None if row.torch.label == row.fastconv.label else "red",
        )
    return table


def answer(answer: Answer) -> tuple[str, str]:
    return short(answer.name), f"{answer.probability:.2f}"


def short(name: str) -> str:
    """The first synonym of an ImageNet class name."""
    return name.split(",")[0]


def verdict(demo: Demo) -> str:
    count = len(demo.predictions)
    same = "the same predictions" if demo.identical else "[red]not the same predictions[/red]"
    right = f"torch {demo.right_torch} of {count}, fastconv {demo.right_fastconv} of {count}"
    return f"Top-1 right: {right}; {same}.\n"


def comparison(result: Comparison) -> tuple[Table, str]:
    """A table of the rivals and a line on how they were measured."""
    batch = result.input_shape[0]
    table = Table(
        box=box.SIMPLE,
        title=f"{result.model}, batch {batch}, {result.dtype}, {result.threads} threads",
    )
    table.add_column("rival", no_wrap=True)
    for column in ("median ms", "middle half", "first call", "x torch", "error"):
        table.add_column(column, justify="right", no_wrap=True)
    for rival in result.rivals:
        table.add_row(rival.title, *rival_cells(rival))
    torch_title = next(r.title for r in result.rivals if r.name == result.baseline)
    notes = [
        f"{result.processor}, {result.cores} cores; {result.rounds} rounds in turn, each rival in "
        f"its own process. x torch: how often as fast as {torch_title}, median over rounds. "
        "Error: difference from float32 torch, relative to its largest output."
    ]
    notes += [f"{r.title} skipped: {r.reason}" for r in result.rivals if r.status == "skipped"]
    return table, "\n".join(notes) + "\n"


def rival_cells(rival: Rival) -> tuple[str | Text, ...]:
    if rival.median_ms is None or rival.quartiles_ms is None:
        return (Text(rival.status, style="red" if rival.status == "failed" else "yellow"),)
    # A wrong answer has no speed worth showing.
    wrong = rival.status == "wrong"
    return (
        f"{rival.median_ms:.2f}",
        "{:.2f} to {:.2f}".format(*rival.quartiles_ms),
        f"{rival.first_call_ms:.1f}",
        Text("wrong", style="red") if wrong else f"{rival.speedup:.2f}",
        "" if rival.difference is None else f"{rival.difference:.1e}",
    )


def findings(found: list[Finding]) -> Table:
    table = Table(box=box.SIMPLE, title="fastconv doctor")
    for column in ("", "", "found", "what, or how to get it"):
        table.add_column(column, overflow="fold")
    topic = ""
    for finding in found:
        if topic and finding.topic != topic:
            table.add_section()
        lacking = Text("no", style="red" if finding.needed else "yellow")
        table.add_row(
            finding.topic if finding.topic != topic else "",
            finding.name,
            Text("yes", style="green") if finding.found else lacking,
            Text(finding.detail),
        )
        topic = finding.topic
    return table
