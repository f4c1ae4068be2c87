"""Sums a pytest-benchmark file up: how many times faster than torch in its better layout.

pytest bench --benchmark-json=kernels.json && python -m bench.summary kernels.json
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from statistics import geometric_mean

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

Key = tuple[str, str, str, str]


def ratios(benchmarks: Iterable[dict]) -> dict[Key, list[float]]:
    """Torch's best time over ours by (op, batch, direction, layout), medians of each test."""
    groups: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for benchmark in benchmarks:
        parameters = benchmark["params"]
        times = groups[benchmark["group"]][parameters["rival"]]
        times[parameters.get("layout", "any")] = benchmark["stats"]["median"]
    result = defaultdict(list)
    for group, rivals in groups.items():
        op, _shape, batch, direction = group.split(" ")
        for layout, time in rivals["fastconv"].items():
            best = min(rivals["torch"].values())
            result[op, batch.removeprefix("n"), direction, layout].append(best / time)
    return result


def table(found: dict[Key, list[float]]) -> Table:
    columns = ("op", "batch", "direction", "layout", "shapes", "x torch", "least", "most")
    result = Table(*columns, box=MARKDOWN)
    for key, values in sorted(found.items()):
        numbers = (geometric_mean(values), min(values), max(values))
        result.add_row(*key, str(len(values)), *(f"{number:.2f}" for number in numbers))
    return result


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        Console().print(table(ratios(json.load(file)["benchmarks"])))
