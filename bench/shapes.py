"""Writes the depthwise and pointwise layer shapes of a network as CSV.

python -m bench.shapes efficientnet_lite0 > bench/shapes/efficientnet_lite0.csv
"""

import csv
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

import fastconv
from fastconv.ops.conv2d import is_depthwise, is_pointwise

FOLDER = Path(__file__).parent / "shapes"


class Shape(NamedTuple):
    """One layer of a network for one image; count is how often the network has it."""

    op: str
    channels: int
    out_channels: int
    height: int
    width: int
    kernel: int
    stride: int
    count: int = 1

    def __str__(self) -> str:
        return (
            f"{self.channels}x{self.height}x{self.width}-{self.out_channels}"
            f"k{self.kernel}s{self.stride}"
        )


def layer_shapes(model: nn.Module, image: torch.Tensor) -> list[Shape]:
    """The shapes that model runs on image, in order, equal ones counted."""
    seen: Counter[Shape] = Counter()

    def record(layer: nn.Conv2d, inputs: tuple[torch.Tensor, ...], _output: torch.Tensor) -> None:
        weight = tuple(layer.weight.shape)
        if is_depthwise(weight, layer.groups):
            op = "depthwise_conv2d"
        elif is_pointwise(weight, layer.groups, layer.padding):
            op = "pointwise_conv2d"
        else:
            return
        _, channels, height, width = inputs[0].shape
        shape = (channels, layer.out_channels, height, width, weight[2], layer.stride[0])
        seen[Shape(op, *shape)] += 1

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(record)
    with torch.no_grad():
        model.eval()(image)
    return [shape._replace(count=count) for shape, count in seen.items()]


def read(network: str) -> list[Shape]:
    """The shapes of a network from its file."""
    with open(FOLDER / f"{network}.csv", newline="") as file:
        rows = csv.DictReader(file)
        return [
            Shape(row.pop("op"), **{name: int(value) for name, value in row.items()})  # type: ignore
            for row in rows
        ]


if __name__ == "__main__":
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(Shape._fields)
    writer.writerows(layer_shapes(fastconv.models.build(sys.argv[1]), torch.randn(1, 3, 224, 224)))
