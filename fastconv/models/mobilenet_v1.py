"""MobileNet: Howard et al. 2017, arXiv 1704.04861, table 1.

A standard convolution is split in two: a depthwise 3x3 filters each channel, a pointwise 1x1 mixes
the channels. Zeros are padded on every side; the authors' TensorFlow code pads the bottom and right
more where the stride is 2. Table 1 gives the last depthwise stride 2, but its sizes need stride 1.
"""

import torch
from torch import nn

from fastconv.models.compound_scaling import Scaling, round_channels
from fastconv.models.conv_norm_activation import ConvNormActivation, initialise
from fastconv.models.layers import Layers
from fastconv.models.network import Network

STEM_CHANNELS = 32
BLOCKS = (  # channels, stride
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
)
RESOLUTION = 224


class SeparableConv(nn.Sequential):
    """Depthwise separable convolution: depthwise 3x3, pointwise 1x1, each with norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, layers: Layers) -> None:
        super().__init__()
        self.depthwise = ConvNormActivation(
            in_channels, in_channels, 3, stride, in_channels, layers=layers, activation=nn.ReLU
        )
        self.pointwise = ConvNormActivation(
            in_channels, out_channels, layers=layers, activation=nn.ReLU
        )


class MobileNetV1(Network):
    """Stem, depthwise separable blocks, average pool, classifier: (N, 3, H, W) -> (N, classes)."""

    def __init__(
        self,
        num_classes: int,
        width_multiplier: float,
        resolution_multiplier: float,
        layers: Layers,
    ) -> None:
        super().__init__(num_classes)
        pixels = max(1, round(RESOLUTION * resolution_multiplier))
        self.input_size = (3, pixels, pixels)
        channels = round_channels(STEM_CHANNELS * width_multiplier)
        features: list[nn.Module] = [
            ConvNormActivation(3, channels, 3, stride=2, layers=layers, activation=nn.ReLU)
        ]
        for block_channels, stride in BLOCKS:
            out_channels = round_channels(block_channels * width_multiplier)
            features.append(SeparableConv(channels, out_channels, stride, layers))
            channels = out_channels
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        self.apply(initialise)


def mobilenet_v1(
    num_classes: int = 1000,
    *,
    width_multiplier: float = 1.0,
    resolution_multiplier: float = 1.0,
    layers: Layers = torch.nn,
) -> MobileNetV1:
    """MobileNet for (N, 3, H, W), made for 224x224: 4 231 976 parameters at 1000 classes.

    width_multiplier: of all channels, which are rounded to multiples of 8 (the paper's alpha: 1,
        0.75, 0.5, 0.25).
    resolution_multiplier: of the image's side; changes `input_size` alone (the paper's rho: 1, 6/7,
        5/7, 4/7 for 224, 192, 160, 128 pixels).
    layers: the module that gives Conv2d, torch.nn or fastconv.nn; keys and weights are the same.
    Raises ValueError for num_classes below 1 or a multiplier that is not above 0.
    """
    Scaling(width=width_multiplier, resolution=resolution_multiplier).check()
    return MobileNetV1(num_classes, width_multiplier, resolution_multiplier, layers)
