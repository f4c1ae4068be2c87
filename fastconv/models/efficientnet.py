"""EfficientNet: Tan and Le 2019, arXiv 1905.11946, table 1; the Lite variant of its authors (2020).

A Lite network has no squeeze-and-excitation and has ReLU6 for SiLU, so that it quantises well; its
stem, its head and the repeats of its first and last stage stay when the rest is scaled.

The modules have torchvision's names (`features.STAGE.BLOCK.block.LAYER`), as its published
EfficientNets do, so one key scheme serves the family. EfficientNet pads as torchvision does,
kernel_size // 2 on every side; Lite as its authors' TensorFlow weights need it.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastconv.models.compound_scaling import Scaling, round_channels, round_repeats
from fastconv.models.conv_norm_activation import ConvNormActivation, initialise
from fastconv.models.layers import Layers
from fastconv.models.network import Network
from fastconv.models.squeeze_excitation import SqueezeExcitation
from fastconv.models.stochastic_depth import StochasticDepth


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
RESOLUTION = 224
SQUEEZE = 4  # squeeze-and-excitation's inner channels: those of the block's input over this

# TensorFlow's moving average 0.99 is torch's momentum 0.01.
AUTHORS_NORM: Mapping[str, float] = MappingProxyType({"eps": 1e-3, "momentum": 0.01})


class MBConv(nn.Module):
    """Mobile inverted bottleneck: expand 1x1, depthwise, project 1x1 without activation.

    squeeze(channels, squeezed), if given, weighs the channels after the depthwise convolution.
    The input is added where it has the shape of the output (stride 1, equal channels); drop is the
    probability that the added branch is left out in training.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expansion: int,
        kernel_size: int,
        stride: int,
        conv: Callable[..., nn.Module],
        squeeze: Callable[[int, int], nn.Module] | None,
        drop: float,
    ) -> None:
        super().__init__()
        width = in_channels * expansion
        layers = [conv(in_channels, width)] if expansion > 1 else []
        layers.append(conv(width, width, kernel_size, stride, groups=width))
        if squeeze is not None:
            layers.append(squeeze(width, in_channels // SQUEEZE))
        layers.append(conv(width, out_channels, activation=None))
        self.block = nn.Sequential(*layers)
        self.stochastic_depth = StochasticDepth(drop)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, input: Tensor) -> Tensor:
        output = self.block(input)
        return input + self.stochastic_depth(output) if self.residual else output


class EfficientNet(Network):
    """Stem, stages of MBConv blocks, head, classifier: (N, 3, H, W) -> (N, num_classes).

    `conv(in_channels, out_channels, kernel_size, stride, groups, activation)` builds every
    convolution with its norm and activation. Block i of n, counted from 0, is left out in
    training with the probability stochastic_depth * i / n.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        num_classes: int,
        *,
        stem_channels: int,
        head_channels: int,
        conv: Callable[..., nn.Module],
        squeeze: Callable[[int, int], nn.Module] | None,
        dropout: float,
        stochastic_depth: float,
    ) -> None:
        super().__init__(num_classes)
        if not 0 <= stochastic_depth < 1:
            raise ValueError(
                f"stochastic_depth must be at least 0 and below 1, got {stochastic_depth}"
            )
        self.stages = tuple(stages)
        channels = stem_channels
        features = [conv(3, channels, 3, stride=2)]
        depth, done = sum(stage.repeats for stage in stages), 0
        for stage in stages:
            blocks = []
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                block = MBConv(
                    channels,
                    stage.channels,
                    stage.expansion,
                    stage.kernel_size,
                    stride,
                    conv,
                    squeeze,
                    stochastic_depth * done / depth,
                )
                blocks.append(block)
                channels = stage.channels
                done += 1
            features.append(nn.Sequential(*blocks))
        features.append(conv(channels, head_channels))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(head_channels, num_classes))
        self.apply(initialise)


def scaled(stages: Sequence[Stage], scaling: Scaling, keep_ends: bool = False) -> list[Stage]:
    """The stages grown or shrunk; keep_ends: but the repeats of the first and the last."""
    grown = []
    for index, stage in enumerate(stages):
        keep = keep_ends and index in (0, len(stages) - 1)
        repeats = stage.repeats if keep else round_repeats(stage.repeats * scaling.depth)
        channels = round_channels(stage.channels * scaling.width)
        grown.append(stage._replace(channels=channels, repeats=repeats))
    return grown


def efficientnet(
    scaling: Scaling,
    num_classes: int = 1000,
    *,
    lite: bool = False,
    norm: Mapping[str, float] = AUTHORS_NORM,
    dropout: float = 0.2,
    stochastic_depth: float = 0.2,
    layers: Layers = torch.nn,
) -> EfficientNet:
    """EfficientNet-B0, or with lite=True EfficientNet-Lite0, grown or shrunk: (N, 3, H, W).

    scaling: multipliers of depth, width and resolution; `models.scale(phi)` gives those of the
        paper. Resolution changes the size that the network is made for, `input_size`, alone.
    norm: arguments of the batch norms.
    dropout: probability before the classifier.
    stochastic_depth: block i of n is left out in training with this probability times i / n.
    layers: the module that gives Conv2d, torch.nn or fastconv.nn; keys and weights are the same.
    Raises ValueError for multipliers that are not above 0 and for probabilities out of range.
    """
    scaling.check()
    width = 1.0 if lite else scaling.width
    model = EfficientNet(
        scaled(B0_STAGES, scaling, keep_ends=lite),
        num_classes,
        stem_channels=round_channels(STEM_CHANNELS * width),
        head_channels=round_channels(HEAD_CHANNELS * width),
        conv=partial(
            ConvNormActivation,
            layers=layers,
            norm=norm,
            activation=nn.ReLU6 if lite else nn.SiLU,
            same_padding=lite,
        ),
        squeeze=None if lite else partial(SqueezeExcitation, layers=layers),
        dropout=dropout,
        stochastic_depth=stochastic_depth,
    )
    pixels = max(1, round(RESOLUTION * scaling.resolution))
    model.input_size = (3, pixels, pixels)
    return model
