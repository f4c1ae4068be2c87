"""python -m bench.readme: writes the README's tables anew from the files of results that they name.

A table stands between the comments `<!-- KIND FILE ... -->` and `<!-- end -->`. KIND is one of

    goals      of bench.goals: what each machine reached, a column a file
    networks   of bench.goals: how many times as fast as torch each rival is
    demo       of fastconv demo --json
"""

import json
import re
from collections.abc import Callable
from itertools import chain, groupby
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from rich.table import Table

from fastconv.files import write_whole
from fastconv.tables.common import as_markdown

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(?P<head><!-- (?P<kind>\w+) (?P<files>[^>]*?) -->\n).*?(?=<!-- end -->)", re.S)


def goals(*found: dict[str, Any]) -> Table:
    machines = [file["machine"] for file in found]
    table = Table("item", "goal", *(f"{m['processor']}, {m['isa']}" for m in machines))
    for row, *others in zip(*(file["rows"] for file in found), strict=True):
        if any(other["name"] != row["name"] for other in others):
            raise ValueError(f"the files have other rows than {row['name']}")
        table.add_row(row["item"], row["goal"], *map(reached, (row, *others)))
    return table


def reached(row: dict[str, Any]) -> str:
    """A row's values, those of one unit together; the worst of its shapes, and their mean."""
    groups = groupby(row["figures"], key=lambda figure: figure["unit"])
    return "; ".join(f"{' / '.join(map(value, figures))} {unit}" for unit, figures in groups)


def value(figure: dict[str, Any]) -> str:
    parts = figure["parts"].values()
    return number(figure["value"]) + (f" ({number(geometric_mean(parts))})" if parts else "")


def number(x: float) -> str:
    return f"{x:.1f}" if x >= 9.95 else f"{x:.2f}"


def networks(found: dict[str, Any]) -> Table:
    table = Table("", "batch 1 / 16", "fastconv", "ONNX Runtime", "OpenVINO")
    races: dict[str, dict[str, dict[str, float]]] = {}
    for row in found["rows"]:
        for figure in row["figures"]:
            if figure["rivals"]:
                model, batch = race_of(row["name"], figure["what"])
                races.setdefault(model, {})[batch] = figure["rivals"]
    for model, batches in races.items():
        speeds = (
            " / ".join(number(rivals[name]) for rivals in batches.values() if name in rivals)
            for name in ("fastconv", "onnxruntime", "openvino")
        )
        table.add_row(model, " / ".join(batches), *speeds)
    return table


def race_of(row: str, what: str) -> tuple[str, str]:
    """The network and the batch of a figure: "batch 1" of the row's, or "resnet50 1"."""
    model, batch = what.rsplit(" ", 1)
    return (row.replace("-", "_") if model == "batch" else model), batch


def demo(found: dict[str, Any]) -> Table:
    batches = found["comparisons"]
    heads = (f"batch {b['input_shape'][0]}, {unit}" for b in batches for unit in ("ms", "x torch"))
    table = Table("", *heads)
    for rivals in zip(*(batch["rivals"] for batch in batches), strict=True):
        cells = ((f"{r['median_ms']:.3g}", number(r["speedup"])) for r in rivals)
        table.add_row(rivals[0]["title"], *chain.from_iterable(cells))
    return table


KINDS: dict[str, Callable[..., Table]] = {"goals": goals, "networks": networks, "demo": demo}


def renewed(text: str) -> str:
    """The text with each of its tables written from the files that the table's comment names."""

    def block(match: re.Match[str]) -> str:
        files = [json.loads((ROOT / name).read_text()) for name in match["files"].split()]
        table = as_markdown(KINDS[match["kind"]](*files))
        narrow = re.sub(" +", " ", re.sub("-{4,}", " --- ", table))
        return f"{match['head']}\n{narrow}\n\n"

    return BLOCK.sub(block, text)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    write_whole(readme, renewed(readme.read_text()))
