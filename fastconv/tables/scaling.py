"""Networks grown to a budget."""

from rich.table import Table

from fastconv.scaling import Advice
from fastconv.tables.common import count, memory, plain_table, several


def advice(result: Advice) -> Table:
    """What is there, and the largest network for each way to grow."""
    threads = several(result.threads, "thread")
    table = plain_table(f"{result.network}, batch {result.batch}, {threads}")
    table.add_column("grown")
    columns = ("resolution", "depth", "width", "parameters", "multiplications", "memory", "ms")
    for column in (*columns, "a second"):
        table.add_column(column, justify="right")
    for candidate in result.candidates:
        speed = 1e3 * candidate.multiplications / (candidate.latency_ms or 1.0)
        table.add_row(
            candidate.grows,
            str(candidate.resolution),
            f"x{candidate.depth:.2f}",
            f"x{candidate.width:.2f}",
            count(candidate.parameters),
            count(candidate.multiplications),
            memory(candidate.memory_bytes),
            f"{candidate.latency_ms:.2f}",
            count(speed),
            style="bold" if candidate is result.best else None,
        )
    return table


def recommendation(result: Advice) -> str:
    """The answer in a sentence."""
    best = result.best
    budget = []
    if result.budget_ms is not None:
        budget.append(f"{best.latency_ms:.3g} of {result.budget_ms:g} ms")
    if result.budget_bytes is not None:
        budget.append(f"{memory(best.memory_bytes)} of {memory(result.budget_bytes)}")
    within = " and ".join(budget)
    if best.phi == 0:
        return f"Grow nothing: {result.network} as it is takes {within}."
    verb = "Grow" if best.phi > 0 else "Shrink"
    alone = "" if best.grows == "all three" else " alone, for there is no room to grow all three"
    return (
        f"{verb} {best.grows}{alone}: resolution to {best.resolution}, depth x{best.depth:.2f}, "
        f"width x{best.width:.2f} (phi {best.phi:g}). It takes {within}."
    )
