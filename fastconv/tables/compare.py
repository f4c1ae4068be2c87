"""A comparison of rivals, and several side by side."""

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from fastconv.compare import Comparison
from fastconv.comparisons import Report
from fastconv.peers.entrant import Rival
from fastconv.tables.common import as_markdown, memory, plain_table, several

COLUMNS = ("ms", "cold", "first", "memory", "x torch", "95 %", "error")


def comparison(result: Comparison) -> tuple[Table, str]:
    """A table of the rivals and a line on how they were measured."""
    table = Table(box=box.SIMPLE, title=heading(result), pad_edge=False, collapse_padding=True)
    table.add_column("rival", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for rival in result.rivals:
        table.add_row(rival.title, *rival_cells(rival))
    torch_title = next(r.title for r in result.rivals if r.name == result.baseline)
    notes = [
        f"{result.processor}, {several(result.cores, 'core')}; "
        f"{result.rounds} rounds in turn, each rival in its own process. "
        "ms: median, caches warm; cold: emptied before each call; first: the "
        "first call. Memory: the most in a call, beside torch, weights and image; libraries and "
        f"what preparing left count. x torch: {torch_title}'s time over this one's, median over "
        "rounds; the true one lies in the next column by 95 %. Error: difference from float32 "
        "torch, relative to its largest output."
    ]
    if result.interrupted:
        notes.append("Interrupted: fewer rounds than asked for.")
    if restless(result):
        notes.append("The times of plain torch vary widely: something else is using this machine.")
    notes += [f"{r.title} skipped: {r.reason}" for r in result.rivals if r.status == "skipped"]
    return table, "\n".join(notes) + "\n"


def report(result: Report) -> str:
    """All comparisons in Markdown: side by side, then each by itself."""
    parts = [", ".join(f"{name} {value}" for name, value in result.machine.items()) + "."]
    if not result.complete:
        parts.append("Interrupted: not all that was asked for is here.")
    parts.append(as_markdown(speedups(result.comparisons, intervals=True)))
    for table, notes in map(comparison, result.comparisons):
        parts += [as_markdown(table), notes.strip().replace("\n", "\n\n")]
    return "\n\n".join(parts) + "\n"


def heading(result: Comparison) -> str:
    batch = result.input_shape[0]
    return f"{result.model}, batch {batch}, {result.dtype}, {several(result.threads, 'thread')}"


def speedups(results: Sequence[Comparison], intervals: bool = False) -> Table:
    """A row a comparison: how many times as fast as plain torch each rival is."""
    titles = {r.name: r.title for result in results for r in result.rivals}
    table = plain_table("Times as fast as torch in its faster layout")
    for column in ("network", "dtype", "threads", "batch"):
        table.add_column(column, no_wrap=True)
    for title in titles.values():
        table.add_column(title, justify="right")
    for result in results:
        rivals = {rival.name: rival for rival in result.rivals}
        cells = (ratio(rivals[name], intervals) if name in rivals else "" for name in titles)
        batch = str(result.input_shape[0])
        table.add_row(result.model, result.dtype, str(result.threads), batch, *cells)
    return table


def ratio(rival: Rival, with_interval: bool) -> str:
    if rival.status != "ok" or rival.speedup is None:
        return "" if rival.status == "ok" else rival.status
    ends = f" ({interval(rival)})" if with_interval and rival.speedup != 1.0 else ""
    return f"{rival.speedup:.2f}{ends}"


def interval(rival: Rival) -> str:
    """Of the ratio; empty where there were too few rounds for one."""
    return "-".join(f"{end:.2f}" for end in rival.speedup_interval or ())


def restless(result: Comparison) -> bool:
    """Whether the middle half of the baseline's times spans a factor of 1.5 (quiet: 1.1)."""
    times = next(r.quartiles_ms for r in result.rivals if r.name == result.baseline)
    return times is not None and times[1] > 1.5 * times[0]


def rival_cells(rival: Rival) -> tuple[str | Text, ...]:
    if rival.median_ms is None:
        return (Text(rival.status, style="red" if rival.status == "failed" else "yellow"),)
    # A wrong answer has no speed worth showing.
    wrong = rival.status == "wrong"
    return (
        ms(rival.median_ms),
        "" if rival.cold_ms is None else ms(rival.cold_ms),
        ms(rival.first_call_ms or 0.0),
        "" if rival.memory_bytes is None else memory(max(0, rival.memory_bytes)),
        Text("wrong", style="red") if wrong else f"{rival.speedup:.2f}",
        "" if wrong or rival.speedup == 1.0 else interval(rival),
        "" if rival.difference is None else f"{rival.difference:.0e}",
    )


def ms(time: float) -> str:
    """Three digits, as many as such a measurement holds."""
    return f"{time:.2f}" if time < 10 else f"{time:.1f}" if time < 100 else f"{time:.0f}"
