"""Comparisons as a chart: how many times as fast as plain torch each rival is."""

import importlib.util
import io
from typing import TYPE_CHECKING, Any, NamedTuple

from fastconv.compare import Comparison
from fastconv.comparisons import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Ours stands out; the others keep their colour from panel to panel.
COLOURS = {
    "torch": "#c9ced6",
    "torch-channels-last": "#9aa3b0",
    "inductor": "#6d7787",
    "onnxruntime": "#7fb0d8",
    "openvino": "#4a83b5",
    "fastconv": "#d9552b",
}
OTHER, INK = "#777777", "#333333"
BAR, GAP, PANEL = 0.2, 0.22, 6.2  # inches: a bar's height, between groups, a panel's width
MARGIN = 1.1  # for titles, axis and legend


class Bar(NamedTuple):
    name: str
    title: str
    ratio: float
    low: float
    high: float


def require_matplotlib() -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError("a chart needs matplotlib: pip install 'fastconv[charts]'")


def comparison_svg(report: Report) -> str:
    """A panel for each dtype and number of threads, a group of bars for each network and batch.

    A bar is the median of the ratios within rounds, its line the 95 % interval of that median. The
    same report gives the same bytes.
    """
    require_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    panels: dict[tuple[str, int], list[Comparison]] = {}
    for comparison in report.comparisons:
        panels.setdefault((comparison.dtype, comparison.threads), []).append(comparison)
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    tallest = max(sum(map(height, panel)) for panel in panels.values())
    size = (PANEL * columns, (tallest + MARGIN) * rows)
    style: Any = {"svg.hashsalt": "fastconv", "svg.fonttype": "none", "font.size": 10}
    with rc_context(style):
        figure = Figure(figsize=size, facecolor="white", layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
        for axes, (key, panel) in zip(grid.flat, panels.items(), strict=False):
            draw(axes, panel)
            axes.set_title(f"{key[0]}, {key[1]} thread{'s' if key[1] > 1 else ''}", loc="left")
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        handles = {
            label: handle
            for axes in grid.flat[: len(panels)]
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            handles.values(), handles, loc="outside upper center", ncols=len(handles), frameon=False
        )
        figure.supxlabel("times as fast as torch in its faster layout", fontsize=10)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Title": "fastconv compare"})
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def height(comparison: Comparison) -> float:
    return BAR * len(bars(comparison)) + GAP


def bars(comparison: Comparison) -> list[Bar]:
    """The rivals that gave the right answer, in the order of COLOURS: ours is last."""
    order = list(COLOURS)
    found = [
        Bar(r.name, r.title, r.speedup, *(r.speedup_interval or (r.speedup, r.speedup)))
        for r in comparison.rivals
        if r.status == "ok" and r.speedup is not None
    ]
    return sorted(found, key=lambda bar: order.index(bar.name) if bar.name in order else -1)


def draw(axes: "Axes", comparisons: list[Comparison]) -> None:
    """The groups of a panel, from top to bottom."""
    place = 0.0
    ticks, labels = [], []
    for comparison in comparisons:
        begin = place
        for bar in bars(comparison):
            drawn = axes.barh(
                place,
                bar.ratio,
                height=0.9 * BAR,
                color=COLOURS.get(bar.name, OTHER),
                label=bar.title,
                xerr=[[max(0.0, bar.ratio - bar.low)], [max(0.0, bar.high - bar.ratio)]],
                error_kw={"elinewidth": 0.8, "ecolor": INK},
            )
            axes.bar_label(drawn, fmt="%.2f", padding=4, fontsize=8)
            place += BAR
        ticks.append((begin + place - BAR) / 2)
        labels.append(f"{comparison.model}\nbatch {comparison.input_shape[0]}")
        place += GAP
    axes.set_yticks(ticks, labels)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.axvline(1, color=INK, linewidth=0.8, linestyle=":")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.1, y=0.02)
