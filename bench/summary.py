"""Sums up what `pytest bench --benchmark-json=FILE` wrote: python -m bench.summary FILE"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from statistics import geometric_mean
from typing import Any

from rich.console import Console
from rich.table import Table

from fastconv.tables.common import as_markdown

COLUMNS = (
    "op",
    "direction",
    "dtype",
    "layout",
    "shapes",
    "x torch",
    "least",
    "x best rival",
    "roof",
)


def table(found: dict[str, Any]) -> Table:
    """A row an op, direction, dtype and layout: means over its shapes, ours against the others."""
    result = Table(*COLUMNS, title=head(found))
    groups = defaultdict(list)
    for row in rows(found["benchmarks"]):
        if row["rival"] == "fastconv" and row["speedup"] is not None:
            groups[row["op"], row["direction"], row["dtype"], row["layout"]].append(row)
    flagged = []
    for key, ours in sorted(groups.items()):
        honest = [row for row in ours if not row["baseline_reference_path"]]
        flagged += [f"{row['case']} {row['layout']}" for row in ours if row not in honest]
        if honest:
            result.add_row(*key, *means(honest))
    result.caption = "x torch: times as fast as eager torch in its faster layout."
    if flagged:
        result.caption += f" Left out, for torch ran a reference path: {', '.join(flagged)}."
    return result


def head(found: dict[str, Any]) -> str:
    machine = found["machine_info"]["fastconv"]
    text = ", ".join(f"{name} {value}" for name, value in machine.items())
    return f"Measured on {text}." + ("" if found["complete"] else " Interrupted: not all rows.")


def rows(benchmarks: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """What bench.kernels.row wrote, with the median and the fastest of the rivals of its case."""
    found = [{**b["extra_info"], "seconds": b["stats"]["median"]} for b in benchmarks]
    best: dict[str, float] = {}
    for row in found:
        if row["rival"].partition("-")[0] not in ("fastconv", "optimized"):
            best[row["case"]] = min(row["seconds"], best.get(row["case"], row["seconds"]))
    return [{**row, "best_rival": best.get(row["case"])} for row in found]


def means(ours: list[dict[str, Any]]) -> list[str]:
    speedups = [row["speedup"] for row in ours]
    against = [row["best_rival"] / row["seconds"] for row in ours]
    roof = [row["share_of_roof"] for row in ours]
    figures = (geometric_mean(speedups), min(speedups), geometric_mean(against))
    return [
        str(len(ours)),
        *(f"{figure:.2f}" for figure in figures),
        f"{geometric_mean(roof):.2f}",
    ]


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        Console(width=1000, highlight=False).print(
            as_markdown(table(json.load(file))), markup=False
        )
