"""The layers of a network that have kernels of ours, as CSV: what is compared is what networks run.

python -m bench.shapes        writes bench/shapes/NETWORK.csv anew for each of NETWORKS
python -m bench.shapes NAME   prints those of one network of fastconv.models

convnext_t.csv is from table 9 of Liu et al. 2022 (arXiv 2201.03545): it is no network of ours.
"""

import csv
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple, TextIO

import torch
from torch import nn

import fastconv
from fastconv.models.mobilenet_v2 import InvertedResidual
from fastconv.ops.conv2d import is_depthwise, is_pointwise
from fastconv.peers.model import input_size
from fastconv.reference import ResidualAdd

FOLDER = Path(__file__).parent / "shapes"
NETWORKS = (
    "mobilenet_v1",
    "mobilenet_v2",
    "efficientnet_b0",
    "efficientnet_lite0",
    "resnet50",
    "alexnet_lrn",
    "googlenet_lrn",
)

# Ops that change no size and have no window.
WHOLE_MAPS = ("local_response_norm", "residual_add", "global_avg_pool2d", "batch_norm")


class Shape(NamedTuple):
    """One layer of a network for one image; count is how often the network has it.

    kernel: of a normalisation its size, in channels; 1 of an addition.
    hidden: channels between the first and the last convolution of an inverted residual, else 0.
    """

    op: str
    channels: int
    out_channels: int
    height: int
    width: int
    kernel: int
    stride: int
    hidden: int = 0
    count: int = 1

    def __str__(self) -> str:
        size = f"{self.channels}x{self.height}x{self.width}"
        if self.op in WHOLE_MAPS:
            return size
        hidden = f"h{self.hidden}" if self.hidden else ""
        return f"{size}-{self.out_channels}k{self.kernel}s{self.stride}{hidden}"


def shape_of(layer: nn.Module, size: torch.Size) -> Shape | None:
    """The shape of a layer that got an input of this size; None where we have no kernel for it."""
    if len(size) != 4:
        return None
    _, channels, height, width = size
    if isinstance(layer, nn.Conv2d):
        weight = tuple(layer.weight.shape)
        if is_depthwise(weight, layer.groups):
            op = "depthwise_conv2d"
        elif is_pointwise(weight, layer.groups, layer.padding) and height > 1:
            op = "pointwise_conv2d"  # a single pixel is of a squeeze-and-excitation
        else:
            return None
        window = weight[2], layer.stride[0]
        return Shape(op, channels, layer.out_channels, height, width, *window)
    if isinstance(layer, nn.LocalResponseNorm):
        return Shape("local_response_norm", channels, channels, height, width, layer.size, 1)
    if isinstance(layer, ResidualAdd):
        return Shape("residual_add", channels, channels, height, width, 1, 1)
    if isinstance(layer, InvertedResidual) and len(layer.conv) == 4:  # with an expansion
        expand, depthwise, project, _ = layer.conv
        window = depthwise[0].kernel_size[0], depthwise[0].stride[0], expand[0].out_channels
        return Shape("inverted_residual", channels, project.out_channels, height, width, *window)
    return None


def layer_shapes(model: nn.Module, image: torch.Tensor) -> list[Shape]:
    """The shapes that model runs on image, equal ones counted, in the order of their ends."""
    seen: Counter[Shape] = Counter()

    def record(layer: nn.Module, inputs: tuple[torch.Tensor, ...], _output: object) -> None:
        shape = shape_of(layer, inputs[0].shape)
        if shape is not None:
            seen[shape] += 1

    for layer in model.modules():
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


def write(network: str, file: TextIO) -> None:
    model = fastconv.models.build(network)
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(Shape._fields)
    writer.writerows(layer_shapes(model, torch.randn(1, *input_size(model))))


if __name__ == "__main__":
    if sys.argv[1:]:
        write(sys.argv[1], sys.stdout)
    else:
        for name in NETWORKS:
            with open(FOLDER / f"{name}.csv", "w", newline="") as file:
                write(name, file)
