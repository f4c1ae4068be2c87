"""Results as rich tables for a terminal."""

from rich import box
from rich.table import Table
from rich.text import Text

from fastconv.compare import Comparison, Rival
from fastconv.demo import Answer, Demo
from fastconv.doctor import Finding


def plain_table(title: str) -> Table:
    return Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)


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
    for column in ("ms", "middle half", "first call", "x torch", "error"):
        table.add_column(column, justify="right", no_wrap=True)
    for rival in result.rivals:
        table.add_row(rival.title, *rival_cells(rival))
    torch_title = next(r.title for r in result.rivals if r.name == result.baseline)
    notes = [
        f"{result.processor}, {result.cores} cores; {result.rounds} rounds in turn, each rival in "
        f"its own process. ms: median. x torch: {torch_title}'s time over this one's, median over "
        "rounds. Error: difference from float32 torch, relative to its largest output."
    ]
    if restless(result):
        notes.append("The times of plain torch vary widely: something else is using this machine.")
    notes += [f"{r.title} skipped: {r.reason}" for r in result.rivals if r.status == "skipped"]
    return table, "\n".join(notes) + "\n"


def restless(result: Comparison) -> bool:
    """Whether the middle half of the baseline's times spans a factor of 1.5 (quiet: 1.1)."""
    times = next(r.quartiles_ms for r in result.rivals if r.name == result.baseline)
    return times is not None and times[1] > 1.5 * times[0]


def rival_cells(rival: Rival) -> tuple[str | Text, ...]:
    if rival.median_ms is None or rival.quartiles_ms is None:
        return (Text(rival.status, style="red" if rival.status == "failed" else "yellow"),)
    # A wrong answer has no speed worth showing.
    wrong = rival.status == "wrong"
    return (
        ms(rival.median_ms),
        " to ".join(map(ms, rival.quartiles_ms)),
        ms(rival.first_call_ms or 0.0),
        Text("wrong", style="red") if wrong else f"{rival.speedup:.2f}",
        "" if rival.difference is None else f"{rival.difference:.1e}",
    )


def ms(time: float) -> str:
    """Three digits, as many as such a measurement holds."""
    return f"{time:.2f}" if time < 10 else f"{time:.1f}" if time < 100 else f"{time:.0f}"


def findings(found: list[Finding]) -> Table:
    table = plain_table("fastconv doctor")
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
