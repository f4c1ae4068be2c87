"""One layer's work done in several ways, and the multiplications that each way takes."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fastconv.cost.count import cost


@dataclass(frozen=True)
class Task:
    """What all ways do: `filters` outputs from kernel x kernel windows of the input.

    padding is "valid", none, or "same", which keeps height and width. bottleneck is the number of
    channels in the middle of the way of that name.
    """

    height: int
    width: int
    channels: int
    kernel: int
    filters: int
    bottleneck: int
    padding: str

    def __post_init__(self) -> None:
        sizes = {name: value for name, value in vars(self).items() if name != "padding"}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.padding not in ("valid", "same"):
            raise ValueError(f"padding must be 'valid' or 'same', got {self.padding!r}")
        if self.padding == "valid" and self.kernel > min(self.height, self.width):
            raise ValueError(
                f"a {self.kernel}x{self.kernel} window does not fit into {self.height}x{self.width}"
                " with valid padding"
            )


# The small example that is worked by hand, and GoogLeNet's 5x5 branch (arXiv 1409.4842, 3a to 3b).
SMALL = Task(6, 6, 3, kernel=3, filters=5, bottleneck=1, padding="valid")
INCEPTION = Task(28, 28, 192, kernel=5, filters=32, bottleneck=16, padding="same")


@dataclass
class Step:
    """One convolution; formula is its window * its output pixels * its filters."""

    name: str
    formula: str
    multiplications: int
    parameters: int


@dataclass
class Alternative:
    """One way; ratio is its multiplications over those of the first way compared."""

    name: str
    steps: list[Step]
    multiplications: int
    ratio: float


def conv(task: Task) -> dict[str, nn.Conv2d]:
    return {
        "conv": nn.Conv2d(
            task.channels, task.filters, task.kernel, padding=task.padding, bias=False
        )
    }


def separable(task: Task) -> dict[str, nn.Conv2d]:
    """Depthwise, then pointwise: Howard et al. 2017, arXiv 1704.04861, section 3.1."""
    channels = task.channels
    return {
        "depthwise": nn.Conv2d(
            channels, channels, task.kernel, padding=task.padding, groups=channels, bias=False
        ),
        "pointwise": nn.Conv2d(channels, task.filters, 1, bias=False),
    }


def inception_bottleneck(task: Task) -> dict[str, nn.Conv2d]:
    """Fewer channels by 1x1, then the convolution: Szegedy et al. 2014, arXiv 1409.4842."""
    return {
        "1x1 bottleneck": nn.Conv2d(task.channels, task.bottleneck, 1, bias=False),
        "conv": nn.Conv2d(
            task.bottleneck, task.filters, task.kernel, padding=task.padding, bias=False
        ),
    }


WAYS = {"conv": conv, "separable": separable, "inception-bottleneck": inception_bottleneck}


def alternatives(names: Sequence[str], task: Task) -> list[Alternative]:
    """The named ways to do the task, counted by fastconv.cost on the layers themselves.

    Raises ValueError for an unknown name.
    """
    found: list[Alternative] = []
    for name in names:
        if name not in WAYS:
            raise ValueError(f"unknown way {name!r}: there are {', '.join(WAYS)}")
        steps = count_steps(WAYS[name], task)
        total = sum(step.multiplications for step in steps)
        first = found[0].multiplications if found else total
        found.append(Alternative(name, steps, total, total / first))
    return found


def count_steps(way: Callable[[Task], dict[str, nn.Conv2d]], task: Task) -> list[Step]:
    with torch.device("meta"):
        layers = way(task)
    try:
        report = cost(
            nn.Sequential(OrderedDict(layers)), (1, task.channels, task.height, task.width)
        )
    except RuntimeError as error:
        raise ValueError(f"{task} cannot be done: {error}") from error
    steps = []
    for (name, layer), counted in zip(layers.items(), report.layers, strict=True):
        _, filters, height, width = counted.output_shape
        side, channels = layer.kernel_size[0], layer.in_channels // layer.groups
        window = f"{side}*{side}" + (f"*{channels}" if layer.groups == 1 else "")
        formula = f"{window} * {height}*{width} * {filters}"
        steps.append(Step(name, formula, counted.multiplications, counted.parameters))
    return steps
