"""Networks to build by name; each file is a table, a block, a class and a builder."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from fastconv.models.compound_scaling import Scaling, scale
from fastconv.models.efficientnet import EfficientNet, efficientnet
from fastconv.models.efficientnet_b import (
    efficientnet_b0,
    efficientnet_b1,
    efficientnet_b2,
    efficientnet_b3,
    efficientnet_b4,
    efficientnet_b5,
    efficientnet_b6,
    efficientnet_b7,
)
from fastconv.models.efficientnet_lite import (
    efficientnet_lite0,
    efficientnet_lite1,
    efficientnet_lite2,
    efficientnet_lite3,
    efficientnet_lite4,
)
from fastconv.models.googlenet import GoogLeNet, Inception, googlenet, googlenet_lrn
from fastconv.models.mobilenet_v1 import MobileNetV1, mobilenet_v1
from fastconv.models.mobilenet_v2 import MobileNetV2, mobilenet_v2
from fastconv.models.network import Network
from fastconv.models.resnet import (
    BasicBlock,
    Bottleneck,
    ResNet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
)

__all__ = [
    "BUILDERS",
    "BasicBlock",
    "Bottleneck",
    "EfficientNet",
    "GoogLeNet",
    "Inception",
    "MobileNetV1",
    "MobileNetV2",
    "ResNet",
    "Scaling",
    "build",
    "efficientnet",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "efficientnet_lite3",
    "efficientnet_lite4",
    "googlenet",
    "googlenet_lrn",
    "mobilenet_v1",
    "mobilenet_v2",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "scale",
]

_BUILDERS: list[Callable[..., Network]] = [
    efficientnet_b0,
    efficientnet_b1,
    efficientnet_b2,
    efficientnet_b3,
    efficientnet_b4,
    efficientnet_b5,
    efficientnet_b6,
    efficientnet_b7,
    efficientnet_lite0,
    efficientnet_lite1,
    efficientnet_lite2,
    efficientnet_lite3,
    efficientnet_lite4,
    googlenet,
    googlenet_lrn,
    mobilenet_v1,
    mobilenet_v2,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
]
BUILDERS = {builder.__name__: builder for builder in _BUILDERS}


def build(name: str, **options: Any) -> Network:
    """The network of this name, with the options of its builder.

    Raises ValueError for an unknown name, with the nearest one and the list.
    """
    if name not in BUILDERS:
        nearest = "".join(
            f"did you mean {match}? " for match in get_close_matches(name, BUILDERS, 1)
        )
        raise ValueError(f"unknown network {name!r}: {nearest}there are {', '.join(BUILDERS)}")
    return BUILDERS[name](**options)
