"""The charts of the page, as figures of plotly.js: data and layout in plain dictionaries.

A colour is the name of a CSS variable, which the page puts in for light, dark and print.
"""

from collections.abc import Sequence
from html import escape
from math import log10
from typing import Any

from fastconv.profiling.record import Layer, Part, Profile, Roofs
from fastconv.profiling.roofline import bandwidth
from fastconv.tables.common import count, memory
from fastconv.tables.compare import ms
from fastconv.tables.cost import shape

Figure = dict[str, Any]

INK, FAINT, GRID, ROOF = "var(--ink)", "var(--faint)", "var(--grid)", "var(--roof)"
COLOURS = {"torch": "var(--torch)", "fastconv": "var(--fastconv)"}
MOST_BARS = 30  # the slowest layers; the rest is one bar
LONGEST_NAME = 26  # of a layer beside its bar, or no bar is left on a phone


def charts(profile: Profile) -> dict[str, Figure]:
    """The figures by the id of their place, those left out for which nothing was measured."""
    timed = [layer for layer in profile.layers if None not in (layer.torch.ms, layer.fastconv.ms)]
    found: dict[str, Figure] = {}
    if timed:
        found["times"] = times(timed, title_of(profile, "torch"))
    if timed and profile.roofs is not None:
        found["roofline"] = roofline(timed, profile.roofs, title_of(profile, "torch"))
    if profile.memory:
        found["memory"] = memory_timeline(profile)
    return found


def title_of(profile: Profile, side: str) -> str:
    return profile.wholes[side].title if side in profile.wholes else side


def axis(title: str, **more: Any) -> dict[str, Any]:
    return {
        "title": {"text": title, "font": {"size": 12, "color": FAINT}, "standoff": 8},
        "gridcolor": GRID,
        "linecolor": GRID,
        "tickfont": {"size": 11, "color": FAINT},
        "zeroline": False,
        "automargin": True,
        **more,
    }


def layout(x: dict[str, Any], y: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "xaxis": x,
        "yaxis": y,
        "font": {"family": "var(--sans)", "size": 12, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 8, "r": 12, "t": 34, "b": 4},
        "legend": {"orientation": "h", "x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom"},
        "hoverlabel": {
            "bgcolor": "var(--card)",
            "bordercolor": GRID,
            "align": "left",
            "font": {"family": "var(--sans)", "size": 12, "color": INK},
        },
        "dragmode": False,
        **more,
    }


def times(layers: Sequence[Layer], torch: str) -> Figure:
    """A pair of bars for each of the slowest layers, in the order of the network."""
    slowest = sorted(layers, key=lambda layer: -max(layer.torch.ms or 0, layer.fastconv.ms or 0))
    shown = set(map(id, slowest[:MOST_BARS]))
    rows = [layer for layer in layers if id(layer) in shown]
    rest = [layer for layer in layers if id(layer) not in shown]
    names = [short(layer.name) for layer in rows]
    names = [f"{name} ({index})" if names.count(name) > 1 else name
             for index, name in enumerate(names, 1)]  # fmt: skip
    data = []
    for side, title in (("torch", torch), ("fastconv", "fastconv")):
        values = [getattr(layer, side).ms for layer in rows]
        texts = [described(layer, side, title) for layer in rows]
        if rest:
            values.append(sum(getattr(layer, side).ms for layer in rest))
            texts.append(f"<b>{len(rest)} other layers</b><br>{title} {ms(values[-1])} ms")
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": title,
                "y": names + ([f"{len(rest)} others"] if rest else []),
                "x": values,
                "hovertext": texts,
                "hoverinfo": "text",
                "marker": {"color": COLOURS[side]},
            }
        )
    sides = layout(
        axis("milliseconds", rangemode="tozero"),
        axis("", autorange="reversed", showgrid=False, ticks=""),
        height=90 + 26 * len(data[0]["y"]),
        bargap=0.35,
        bargroupgap=0.08,
    )
    return {"data": data, "layout": sides}


def short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else "\u2026" + name[1 - LONGEST_NAME :]


def roofline(layers: Sequence[Layer], roofs: Roofs, torch: str) -> Figure:
    """FLOP a second over FLOP a byte, both logarithmic, a point for each layer on each side."""
    points = {
        side: [(intensity(layer, side), speed(layer, side)) for layer in layers] for side in COLOURS
    }
    everywhere = [x for found in points.values() for x, _ in found]
    low, high = min(everywhere) / 2, max(*everywhere, roofs.flops / roofs.read[-1]) * 2
    data: list[Figure] = []
    notes: list[Figure] = []
    for label, rate in roof_lines(roofs).items():
        bend = roofs.flops / rate
        xs = [low, min(bend, high), high]
        ys = [min(rate * x, roofs.flops) / 1e9 for x in xs]
        data.append(line(xs, ys, ROOF, width=2))
        notes.append(note(low, ys[0], label, xanchor="left", yanchor="top", xshift=10, yshift=-2))
    # No layer is above the roofs, so what stands there hides no point, on a phone neither.
    top = roofs.flops / 1e9
    notes[0] = note(low, top, notes[0]["text"], xanchor="left", yanchor="bottom", xshift=4)
    peak = f"{count(roofs.flops)}FLOP/s"
    notes.append(note(high, top, peak, xanchor="right", yanchor="bottom"))
    for before, after in zip(points["torch"], points["fastconv"], strict=True):
        data.append(line((before[0], after[0]), (before[1], after[1]), GRID, width=1))
    for side, title in (("torch", torch), ("fastconv", "fastconv")):
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": title,
                "x": [x for x, _ in points[side]],
                "y": [y for _, y in points[side]],
                "hovertext": [described(layer, side, title) for layer in layers],
                "hoverinfo": "text",
                "marker": {
                    "color": COLOURS[side],
                    "size": [marker_size(layer, side, layers) for layer in layers],
                    "opacity": 0.85,
                    "line": {"width": 1, "color": "var(--card)"},
                },
            }
        )
    logarithmic = {"type": "log", "dtick": 1}
    slowest = min(y for found in points.values() for _, y in found)
    heights = [log10(slowest / 2), log10(2 * roofs.flops / 1e9)]
    x = axis("FLOP a byte moved", range=[log10(low), log10(high)], **logarithmic)
    y = axis("GFLOP/s", range=heights, **logarithmic)
    return {"data": data, "layout": layout(x, y, height=480, annotations=notes)}


def roof_lines(roofs: Roofs) -> dict[str, float]:
    """The rate of the caches at their best, and that of memory."""
    rates = {size: bandwidth(roofs, size) for size in roofs.sizes}
    fastest = max(rates, key=rates.__getitem__)
    largest = roofs.sizes[-1]
    return {
        f"cache {count(rates[fastest])}B/s": rates[fastest],
        f"memory {count(rates[largest])}B/s": rates[largest],
    }


def intensity(layer: Layer, side: str) -> float:
    part: Part = getattr(layer, side)
    return max(layer.flop, 1) / max(part.bytes, 1)


def speed(layer: Layer, side: str) -> float:
    """GFLOP a second."""
    part: Part = getattr(layer, side)
    return max(layer.flop, 1) / 1e6 / max(part.ms or 0.0, 1e-6)


def marker_size(layer: Layer, side: str, layers: Sequence[Layer]) -> float:
    """Pixels across, the area in proportion to the time."""
    longest = max(max(other.torch.ms or 0, other.fastconv.ms or 0) for other in layers)
    return round(7 + 19 * ((getattr(layer, side).ms or 0) / longest) ** 0.5, 1)


def line(xs: Sequence[Any], ys: Sequence[Any], color: str, width: float) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": list(xs),
        "y": list(ys),
        "line": {"color": color, "width": width},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def note(x: float, y: float, text: str, **more: Any) -> Figure:
    font = {"size": 11, "color": FAINT}
    return {"x": log10(x), "y": log10(y), "text": text, "showarrow": False, "font": font, **more}


def described(layer: Layer, side: str, title: str) -> str:
    """What hovering over a layer says."""
    part: Part = getattr(layer, side)
    lines = [
        f"<b>{escape(layer.name)}</b>",
        f"{escape(title)} {ms(part.ms or 0.0)} ms",
        escape(", ".join(part.kernels[:3])),
        f"{escape(layer.op)} {shape(layer.input)} \u2192 {shape(layer.output)}",
        f"{count(layer.flop)}FLOP, {memory(part.bytes)} moved",
    ]
    if part.share_of_roof is not None:
        lines.append(f"{part.share_of_roof:.0%} of the roof")
    return "<br>".join(line for line in lines if line)


def memory_timeline(profile: Profile) -> Figure:
    data = []
    for side, line in profile.memory.items():
        title = title_of(profile, side) if side != "torch" else "torch"
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": title,
                "x": [100 * at for at, _ in line],
                "y": [held / 2**20 for _, held in line],
                "line": {"color": COLOURS[side], "width": 1.5, "shape": "hv"},
                "hovertemplate": f"{title} %{{y:.2f}} MB at %{{x:.0f}} %<extra></extra>",
            }
        )
    x = axis("share of the call that is over, %", range=[0, 100])
    y = axis("MB held", rangemode="tozero")
    return {"data": data, "layout": layout(x, y, height=300)}
