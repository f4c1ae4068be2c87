"""Networks to build by name; each file is a table, a block, a class and its builders."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from fastconv.models.alexnet import AlexNet, alexnet, alexnet_lrn, zfnet, zfnet512
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
from fastconv.models.lenet import LeNet5, lenet5
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
from fastconv.models.vgg import (
    VGG,
    vgg11,
    vgg11_bn,
    vgg11_lrn,
    vgg13,
    vgg13_bn,
    vgg16,
    vgg16_1x1,
    vgg16_1x1_bn,
    vgg16_bn,
    vgg19,
    vgg19_bn,
)
from fastconv.models.weights import load_weights

# In the order of their history.
_builders: list[Callable[..., Network]] = [
    *(lenet5, alexnet, alexnet_lrn, zfnet, zfnet512),
    *(vgg11, vgg11_lrn, vgg13, vgg16_1x1, vgg16, vgg19),
    *(vgg11_bn, vgg13_bn, vgg16_1x1_bn, vgg16_bn, vgg19_bn),
    *(googlenet, googlenet_lrn),
    *(resnet18, resnet34, resnet50, resnet101, resnet152),
    *(mobilenet_v1, mobilenet_v2),
    *(efficientnet_b0, efficientnet_b1, efficientnet_b2, efficientnet_b3),
    *(efficientnet_b4, efficientnet_b5, efficientnet_b6, efficientnet_b7),
    *(efficientnet_lite0, efficientnet_lite1, efficientnet_lite2),
    *(efficientnet_lite3, efficientnet_lite4),
]
BUILDERS = {builder.__name__: builder for builder in _builders}

__all__ = [
    "BUILDERS",
    "VGG",
    "AlexNet",
    "BasicBlock",
    "Bottleneck",
    "EfficientNet",
    "GoogLeNet",
    "Inception",
    "LeNet5",
    "MobileNetV1",
    "MobileNetV2",
    "Network",
    "ResNet",
    "Scaling",
    "build",
    "efficientnet",
    "load_weights",
    "scale",
    *BUILDERS,
]


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
