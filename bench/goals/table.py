"""The goals and what was reached, as one table."""

from typing import Any

from rich.table import Table


def table(found: dict[str, Any]) -> Table:
    head = ", ".join(f"{name} {value}" for name, value in found["machine"].items())
    roof = ", ".join(
        f"{name} {value:.0f} {'GFLOP/s' if name.startswith('FMA') else 'GB/s'}"
        for name, value in found["roofline"].items()
    )
    columns = ("item", "goal", "reached", "met")
    some = "" if found["complete"] else " Not all rows."
    goals = Table(*columns, title=f"Measured on {head}.{some}", caption=f"Roofline: {roof}.")
    for result in found["rows"]:
        goals.add_row(result["item"], result["goal"], reached(result), met(result))
    return goals


def reached(result: dict) -> str:
    if "error" in result:
        return f"failed: {result['error']}"
    return "; ".join(map(str, result["figures"]))


def met(result: dict) -> str:
    """How many of the row's figures reach their goal."""
    figures = [figure for figure in result.get("figures", []) if figure.goal is not None]
    return f"{sum(figure.reached for figure in figures)} of {len(figures)}"
