"""Pictures as PNG files: what augmentation does, how precise a network is, what speed costs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from fastconv.recipes.evaluate import Curve
from fastconv.recipes.libraries import library

INCH = 1.0  # of the figure for an image
DPI = 120
MOST_CURVES = 10  # with a colour and a name each; a legend of more is not read


def figure(width: float, height: float) -> Any:
    """A figure of inches, of no window and no global state."""
    return library("matplotlib.figure").Figure(
        figsize=(width, height), dpi=DPI, layout="constrained"
    )


def write(picture: Any, path: Path) -> None:
    """Raises OSError naming a file that cannot be written, ValueError for a suffix of no format."""
    picture.savefig(path, facecolor="white")


def contact_sheet(rows: Mapping[str, Tensor]) -> Any:
    """A row of images (n, C, H, W), float from 0 to 1, for each name."""
    columns = max(len(images) for images in rows.values())
    picture = figure(INCH * columns + 1.1, 1.04 * INCH * len(rows))
    axes = picture.subplots(len(rows), columns, squeeze=False)
    for (name, images), line in zip(rows.items(), axes, strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
        for axis in line:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        for axis, image in zip(line, images, strict=False):
            axis.imshow(image.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
    return picture


def precision_recall(curves: Sequence[Curve], title: str) -> Any:
    """A curve a class; of many classes the least precise ones have a name, the others are grey."""
    picture = figure(6.4, 4.8)
    axis = picture.subplots()
    mean = sum(curve.average_precision for curve in curves) / len(curves)
    ordered = sorted(curves, key=lambda curve: curve.average_precision)
    for curve in ordered[MOST_CURVES:]:
        axis.plot(curve.recall.numpy(), curve.precision.numpy(), color="0.8", linewidth=0.8)
    for curve in ordered[:MOST_CURVES]:
        name = f"{curve.name[:24]}  {curve.average_precision:.3f}"
        axis.plot(curve.recall.numpy(), curve.precision.numpy(), linewidth=1.5, label=name)
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.01))
    axis.set_title(f"{title}: mAP {mean:.3f}", fontsize=11)
    axis.grid(color="0.9")
    axis.legend(title="class, AP", loc="lower left", fontsize=8)
    return picture


class Point(NamedTuple):
    """A network, its accuracy in percent and its milliseconds an image."""

    name: str
    accuracy: float
    milliseconds: float


def pareto(points: Sequence[Point]) -> list[Point]:
    """Those that no other equals in both speed and accuracy and beats in one; fastest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.milliseconds, -point.accuracy)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    return front


def label_points(axis: Any, points: Sequence[Point]) -> None:
    """Names beside the points: of the front on its outer side, of the others below, or above where
    the one before is so near that their names would meet."""
    front = pareto(points)
    before: Point | None = None
    for point in sorted(points, key=lambda point: point.milliseconds):
        right, up = 4, -9
        if point in front:
            right, up = -5, 4
        else:
            if before and near(before, point):
                up = 4
            before = point
        axis.annotate(
            point.name,
            (point.milliseconds, point.accuracy),
            xytext=(right, up),
            textcoords="offset points",
            ha="left" if right > 0 else "right",
            fontsize=7.5,
        )


def near(one: Point, other: Point) -> bool:
    return abs(one.accuracy - other.accuracy) < 1 and other.milliseconds < 1.4 * one.milliseconds


def accuracy_against_latency(groups: Mapping[str, Sequence[Point]], title: str, label: str) -> Any:
    """Each group with a colour and its Pareto front; the names stand at the last group's points."""
    picture = figure(9.6, 6.0)
    axis = picture.subplots()
    *_, last = groups
    for (name, points), colour in zip(groups.items(), ("0.6", "tab:blue"), strict=False):
        front = pareto(points)
        times, heights = [p.milliseconds for p in points], [p.accuracy for p in points]
        axis.scatter(times, heights, color=colour, s=22, label=name, zorder=3)
        axis.plot(
            [p.milliseconds for p in front],
            [p.accuracy for p in front],
            color=colour,
            linewidth=1.5,
            label=f"{name}: Pareto front",
        )
    label_points(axis, groups[last])
    axis.set_xscale("log")
    fastest = min(point.milliseconds for points in groups.values() for point in points)
    axis.set_xlim(left=fastest / 1.7)  # room for its name
    ticker = library("matplotlib.ticker")
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axis.xaxis.set_minor_formatter(ticker.NullFormatter())
    axis.set(xlabel="milliseconds an image, batch 1 (log)", ylabel=label)
    axis.set_title(title, fontsize=11)
    axis.grid(color="0.9", which="both")
    axis.legend(loc="lower right", fontsize=9)
    return picture
