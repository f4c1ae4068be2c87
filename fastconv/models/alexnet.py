"""AlexNet and ZFNet: five convolutions, three pools, three fully connected layers.

Krizhevsky, Sutskever and Hinton 2012, "ImageNet Classification with Deep Convolutional Neural
Networks", figure 2: two groups of channels, one a GPU, and local response normalisation.
Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks",
arXiv 1404.5997, footnote 1: one tower without normalisation, the AlexNet of torchvision.
Zeiler and Fergus 2013, "Visualizing and Understanding Convolutional Networks", arXiv 1311.2901,
figure 3: smaller windows and strides in front.

The modules have torchvision's names: `features.N`, `classifier.N`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from fastconv.models.layers import Layers, local_response_norm
from fastconv.models.network import Network


class Conv(NamedTuple):
    """A convolution and ReLU."""

    channels: int
    kernel_size: int
    stride: int = 1
    padding: int = 0
    groups: int = 1


class Pool(NamedTuple):
    """Max pooling; ceil_mode keeps a last window that the image does not fill."""

    kernel_size: int
    stride: int
    ceil_mode: bool = False


class LRN(NamedTuple):
    """Local response normalisation by the constants of Krizhevsky et al. 2012, section 3.3."""


Row = Conv | Pool | LRN

ONE_TOWER = (
    Conv(64, kernel_size=11, stride=4, padding=2),
    Pool(kernel_size=3, stride=2),
    Conv(192, kernel_size=5, padding=2),
    Pool(kernel_size=3, stride=2),
    Conv(384, kernel_size=3, padding=1),
    Conv(256, kernel_size=3, padding=1),
    Conv(256, kernel_size=3, padding=1),
    Pool(kernel_size=3, stride=2),
)
# The paper's 224 pixels give its 55x55 maps only with padding, of which it says nothing.
TWO_GROUPS = (
    Conv(96, kernel_size=11, stride=4, padding=2),
    LRN(),
    Pool(kernel_size=3, stride=2),
    Conv(256, kernel_size=5, padding=2, groups=2),
    LRN(),
    Pool(kernel_size=3, stride=2),
    Conv(384, kernel_size=3, padding=1),
    Conv(384, kernel_size=3, padding=1, groups=2),
    Conv(256, kernel_size=3, padding=1, groups=2),
    Pool(kernel_size=3, stride=2),
)
# Maps of 110, 55, 26, 13 and 6 pixels, as in the figure.
ZFNET = (
    Conv(96, kernel_size=7, stride=2, padding=1),
    Pool(kernel_size=3, stride=2, ceil_mode=True),
    LRN(),
    Conv(256, kernel_size=5, stride=2),
    Pool(kernel_size=3, stride=2, ceil_mode=True),
    LRN(),
    Conv(384, kernel_size=3, padding=1),
    Conv(384, kernel_size=3, padding=1),
    Conv(256, kernel_size=3, padding=1),
    Pool(kernel_size=3, stride=2, ceil_mode=True),
)
# Caffe2's model zoo, and the light_zfnet512 of the package onnx: a wider variant.
ZFNET512 = (
    Conv(96, kernel_size=7, stride=2),
    LRN(),
    Pool(kernel_size=3, stride=2),
    Conv(256, kernel_size=5, stride=2),
    LRN(),
    Pool(kernel_size=3, stride=2),
    Conv(512, kernel_size=3, padding=1),
    Conv(512, kernel_size=3, padding=1),
    Conv(512, kernel_size=3, padding=1),
    Pool(kernel_size=2, stride=2),
)
POOLED_SIZE = 6


class AlexNet(Network):
    """The rows of a table, then three fully connected layers: (N, 3, H, W) -> (N, num_classes).

    widths: outputs of the first two fully connected layers.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        num_classes: int,
        dropout: float,
        layers: Layers,
        widths: tuple[int, int] = (4096, 4096),
    ) -> None:
        super().__init__(num_classes)
        self.least_size = least_size(rows)
        channels = self.input_size[0]
        features: list[nn.Module] = []
        for row in rows:
            match row:
                case Conv():
                    window = row.kernel_size, row.stride, row.padding
                    features.append(
                        layers.Conv2d(channels, row.channels, *window, groups=row.groups)
                    )
                    features.append(nn.ReLU(inplace=True))
                    channels = row.channels
                case Pool():
                    features.append(
                        nn.MaxPool2d(row.kernel_size, row.stride, ceil_mode=row.ceil_mode)
                    )
                case LRN():
                    features.append(local_response_norm(layers))
        self.features = nn.Sequential(*features)
        # Other images than 224x224 come to the size of the first fully connected layer here.
        self.avgpool = nn.AdaptiveAvgPool2d(POOLED_SIZE)
        first, second = widths
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(channels * POOLED_SIZE**2, first),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(first, second),
            nn.ReLU(inplace=True),
            nn.Linear(second, num_classes),
        )


def least_size(rows: Sequence[Row]) -> int:
    """Pixels of image that leave one pixel after the last row."""
    size = 1
    for row in reversed(rows):
        match row:
            case Conv():
                size = (size - 1) * row.stride + row.kernel_size - 2 * row.padding
            case Pool():
                missing = row.stride - 1 if row.ceil_mode else 0
                size = (size - 1) * row.stride + row.kernel_size - missing
    return size


def alexnet(num_classes: int = 1000, *, dropout: float = 0.5, layers: Layers = torch.nn) -> AlexNet:
    """AlexNet in one tower, for (N, 3, H, W) of at least 63x63, made for 224x224: 61 100 840
    parameters at 1000 classes.

    As cuda-convnet2 and torchvision have it, with torchvision's keys; the paper says 384 channels
    for the fourth convolution.
    dropout: before the first two fully connected layers.
    layers: the module that gives Conv2d, torch.nn or fastconv.nn; keys and weights are the same.
    Smaller images raise RuntimeError.
    """
    return AlexNet(ONE_TOWER, num_classes, dropout, layers)


def alexnet_lrn(
    num_classes: int = 1000, *, dropout: float = 0.5, layers: Layers = torch.nn
) -> AlexNet:
    """The AlexNet of 2012 with local response normalisation and two groups, for (N, 3, H, W) of at
    least 63x63, made for 224x224: 60 965 224 parameters at 1000 classes.

    Caffe's weights, made for 227x227 images, want features[0].padding = 0, and k=1 and alpha=1e-4
    in its two LocalResponseNorm.
    dropout, layers: as for alexnet; layers gives LocalResponseNorm too.
    Smaller images raise RuntimeError.
    """
    return AlexNet(TWO_GROUPS, num_classes, dropout, layers)


def zfnet(num_classes: int = 1000, *, dropout: float = 0.5, layers: Layers = torch.nn) -> AlexNet:
    """The network of Zeiler and Fergus for (N, 3, H, W) of at least 47x47, made for 224x224:
    62 357 608 parameters at 1000 classes.

    dropout, layers: as for alexnet_lrn. Smaller images raise RuntimeError.
    """
    return AlexNet(ZFNET, num_classes, dropout, layers)


def zfnet512(
    num_classes: int = 1000, *, dropout: float = 0.5, layers: Layers = torch.nn
) -> AlexNet:
    """The wider ZFNet of Caffe2's model zoo for (N, 3, H, W) of at least 59x59, made for 224x224:
    87 250 536 parameters at 1000 classes, of which 75.5 million in one layer.

    dropout, layers: as for alexnet_lrn. Smaller images raise RuntimeError.
    """
    return AlexNet(ZFNET512, num_classes, dropout, layers, widths=(4096, 1024))
