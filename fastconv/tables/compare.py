"""A comparison of rivals."""

from rich import box
from rich.table import Table
from rich.text import Text

from fastconv.compare import Comparison, Rival


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
