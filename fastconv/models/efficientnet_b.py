"""EfficientNet-B0 to B7: Tan and Le 2019, arXiv 1905.11946, table 2.

The multipliers are those of the authors' code. They are near `scale(phi)` at the phi of PHI: within
5 %, but for the depth of B5 to B7, which is 12 to 14 % less.
"""

import torch

from fastconv.models.compound_scaling import Scaling
from fastconv.models.conv_norm_activation import DEFAULTS
from fastconv.models.efficientnet import AUTHORS_NORM, EfficientNet, efficientnet
from fastconv.models.layers import Layers

PUBLISHED = (
    Scaling(depth=1.0, width=1.0, resolution=224 / 224),
    Scaling(depth=1.1, width=1.0, resolution=240 / 224),
    Scaling(depth=1.2, width=1.1, resolution=260 / 224),
    Scaling(depth=1.4, width=1.2, resolution=300 / 224),
    Scaling(depth=1.8, width=1.4, resolution=380 / 224),
    Scaling(depth=2.2, width=1.6, resolution=456 / 224),
    Scaling(depth=2.6, width=1.8, resolution=528 / 224),
    Scaling(depth=3.1, width=2.0, resolution=600 / 224),
)
PHI = (0, 0.5, 1, 2, 3.5, 5, 6, 7)


def published(
    variant: int, num_classes: int, dropout: float, stochastic_depth: float, layers: Layers
) -> EfficientNet:
    return efficientnet(
        PUBLISHED[variant],
        num_classes,
        # torchvision's weights of B0 to B4 were trained with torch's eps and momentum.
        norm=DEFAULTS if variant < 5 else AUTHORS_NORM,
        dropout=dropout,
        stochastic_depth=stochastic_depth,
        layers=layers,
    )


def efficientnet_b0(
    num_classes: int = 1000,
    *,
    dropout: float = 0.2,
    stochastic_depth: float = 0.2,
    layers: Layers = torch.nn,
) -> EfficientNet:
    """EfficientNet-B0 for (N, 3, H, W), made for 224x224: 5 288 548 parameters at 1000 classes.

    dropout: probability before the classifier.
    stochastic_depth: block i of n is left out in training with this probability times i / n.
    layers: the module that gives Conv2d, torch.nn or fastconv.nn; keys and weights are the same.
    Raises ValueError for num_classes below 1 and for probabilities out of range.
    """
    return published(0, num_classes, dropout, stochastic_depth, layers)


def efficientnet_b1(
    num_classes: int = 1000,
    *,
    dropout: float = 0.2,
    stochastic_depth: float = 0.2,
    layers: Layers = torch.nn,
) -> EfficientNet:
    """EfficientNet-B1, made for 240x240: 7 794 184 parameters; else as efficientnet_b0."""
    return published(1, num_classes, dropout, stochastic_depth, layers)


def efficientnet_b2(
    num_classes: int = 1000,
    *,
    dropout: float = 0.3,
    stochastic_depth: float = 0.2,
    layers: Layers = torch.nn,
) -> EfficientNet:
    """EfficientNet-B2, made for 260x260: 9 109 994 parameters; else as efficientnet_b0."""
    return published(2, num_classes, dropout, stochastic_depth, layers)


def efficientnet_b3(
    num_classes: int = 1000,
    *,
    dropout: float = 0.3,
    stochastic_depth: float = 0.2,
    layers: Layers = torch.nn,
) -> EfficientNet:
    """EfficientNet-B3, made for 300x300: 12 233 232 parameters; else as efficientnet_b0."""
    return published(3, num_classes, dropout, stochastic_depth, layers)


def efficientnet_b4(
    num_classes: int = 1000,
    *,
    dropout: float = 0.4,
    stochastic_depth: float = 0.2,
    layers: Layers = torch.nn,
) -> EfficientNet:
    """EfficientNet-B4, made for 380x380: 19 341 616 parameters; else as efficientnet_b0."""
    return published(4, num_classes, dropout, stochastic_depth, layers)


def efficientnet_b5(
    num_classes: int = 1000,
    *,
    dropout: float = 0.4,
    stochastic_depth: float = 0.2,
    layers: Layers = torch.nn,
) -> EfficientNet:
    """EfficientNet-B5, made for 456x456: 30 389 784 parameters; else as efficientnet_b0."""
    return published(5, num_classes, dropout, stochastic_depth, layers)


def efficientnet_b6(
    num_classes: int = 1000,
    *,
    dropout: float = 0.5,
    stochastic_depth: float = 0.2,
    layers: Layers = torch.nn,
) -> EfficientNet:
    """EfficientNet-B6, made for 528x528: 43 040 704 parameters; else as efficientnet_b0."""
    return published(6, num_classes, dropout, stochastic_depth, layers)


def efficientnet_b7(
    num_classes: int = 1000,
    *,
    dropout: float = 0.5,
    stochastic_depth: float = 0.2,
    layers: Layers = torch.nn,
) -> EfficientNet:
    """EfficientNet-B7, made for 600x600: 66 347 960 parameters; else as efficientnet_b0."""
    return published(7, num_classes, dropout, stochastic_depth, layers)
