"""ResNet: He, Zhang, Ren and Sun 2015, arXiv 1512.03385, table 1.

Two or three convolutions compute a residual that is added to their input: a[l+2] = relu(z[l+2] +
a[l]). Keys, order and outputs are torchvision's; its published weights load as they are.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastconv.models.layers import Layers, batch_norm, residual_add
from fastconv.models.network import Network

# Channels of a stage's 3x3 convolutions and stride of its first block: conv2_x to conv5_x.
STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))

# Blocks in each stage, by the number of layers; BasicBlock up to 34, Bottleneck from 50.
REPEATS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}

# The paper's options A, B and C: shortcut of a block whose output has the shape of its input, and
# of one whose output has not.
SHORTCUTS = {
    "zero_padding": ("identity", "zero_padding"),
    "projection": ("identity", "projection"),
    "all_projection": ("projection", "projection"),
}

BlockShortcut = Literal["identity", "projection", "zero_padding"]
NetworkShortcut = Literal["zero_padding", "projection", "all_projection"]
StrideIn = Literal["3x3", "1x1"]


def conv(in_channels: int, out_channels: int, size: int, stride: int, layers: Layers) -> nn.Conv2d:
    return layers.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False)


def projection(
    shortcut: str, in_channels: int, out_channels: int, stride: int, layers: Layers
) -> nn.Module:
    """What the shortcut does before the add: W_s of the paper's equation 2, or nothing."""
    change = f"{in_channels} to {out_channels} channels at stride {stride}"
    if shortcut == "projection":
        norm = batch_norm(layers, out_channels)
        return nn.Sequential(conv(in_channels, out_channels, 1, stride, layers), norm)
    if shortcut not in ("identity", "zero_padding"):
        raise ValueError(
            "shortcut must be 'identity', 'projection' or 'zero_padding' for a block, "
            f"got {shortcut!r}"
        )
    if shortcut == "identity" and (stride != 1 or in_channels != out_channels):
        raise ValueError(f"shortcut='identity' needs equal shapes, got {change}")
    if in_channels > out_channels:
        raise ValueError(f"shortcut='zero_padding' adds channels, got {change}")
    return nn.Identity()  # the add itself pads with zeros


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (N, in_channels, H, W) -> (N, channels, H/s, W/s).

    Raises ValueError for shortcut="identity" where the shapes are not equal.
    """

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        shortcut: BlockShortcut = "identity",
        *,
        layers: Layers = torch.nn,
    ) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, channels, 3, stride, layers)
        self.bn1 = batch_norm(layers, channels)
        self.conv2 = conv(channels, channels, 3, 1, layers)
        self.bn2 = batch_norm(layers, channels)
        self.relu = nn.ReLU()
        self.downsample = projection(shortcut, in_channels, channels, stride, layers)
        self.add = residual_add(layers, "relu")

    def forward(self, input: Tensor) -> Tensor:
        output = self.relu(self.bn1(self.conv1(input)))
        output = self.bn2(self.conv2(output))
        return self.add(output, self.downsample(input))


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up and a shortcut: (N, in_channels, H, W) -> (N, 4 channels, H/s, W/s).

    stride_in: the convolution that has the stride, "3x3" (torchvision, "v1.5") or "1x1", the first
    one (the paper). Raises ValueError for shortcut="identity" where the shapes are not equal.
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        shortcut: BlockShortcut = "identity",
        *,
        stride_in: StrideIn = "3x3",
        layers: Layers = torch.nn,
    ) -> None:
        super().__init__()
        if stride_in not in ("3x3", "1x1"):
            raise ValueError(f"stride_in must be '3x3' or '1x1', got {stride_in!r}")
        out_channels = channels * self.expansion
        first, second = (stride, 1) if stride_in == "1x1" else (1, stride)
        self.conv1 = conv(in_channels, channels, 1, first, layers)
        self.bn1 = batch_norm(layers, channels)
        self.conv2 = conv(channels, channels, 3, second, layers)
        self.bn2 = batch_norm(layers, channels)
        self.conv3 = conv(channels, out_channels, 1, 1, layers)
        self.bn3 = batch_norm(layers, out_channels)
        self.relu = nn.ReLU()
        self.downsample = projection(shortcut, in_channels, out_channels, stride, layers)
        self.add = residual_add(layers, "relu")

    def forward(self, input: Tensor) -> Tensor:
        output = self.relu(self.bn1(self.conv1(input)))
        output = self.relu(self.bn2(self.conv2(output)))
        output = self.bn3(self.conv3(output))
        return self.add(output, self.downsample(input))


class ResNet(Network):
    """Stem, four stages of blocks, average, classifier: (N, 3, H, W) -> (N, num_classes).

    repeats: blocks in each stage.
    shortcut: "zero_padding", "projection" or "all_projection", options A, B and C of the paper.
    zero_init_residual: the last batch norm of a block starts at weight 0, so that every block
        starts as its shortcut.
    block_options: further arguments of every block.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        repeats: Sequence[int],
        num_classes: int = 1000,
        *,
        shortcut: NetworkShortcut = "projection",
        zero_init_residual: bool = False,
        layers: Layers = torch.nn,
        **block_options: Any,
    ) -> None:
        super().__init__(num_classes)
        if shortcut not in SHORTCUTS:
            raise ValueError(f"shortcut must be one of {', '.join(SHORTCUTS)}, got {shortcut!r}")
        self.conv1 = layers.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = batch_norm(layers, 64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        in_channels, stages = 64, []
        for (channels, stride), count in zip(STAGES, repeats, strict=True):
            blocks = []
            for _ in range(count):
                out_channels = channels * block.expansion
                changes = stride != 1 or in_channels != out_channels
                kind: Any = SHORTCUTS[shortcut][changes]
                blocks.append(
                    block(in_channels, channels, stride, kind, layers=layers, **block_options)
                )
                in_channels, stride = out_channels, 1
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(in_channels, num_classes)
        self.apply(initialise)
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, BasicBlock | Bottleneck):
                    norms = [
                        child for child in module.children() if isinstance(child, nn.BatchNorm2d)
                    ]
                    nn.init.zeros_(norms[-1].weight)

    def forward(self, input: Tensor) -> Tensor:
        self.check_image(input)
        x = self.maxpool(self.relu(self.bn1(self.conv1(input))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def initialise(module: nn.Module) -> None:
    """He et al. 2015 (arXiv 1502.01852), equation 14."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def resnet18(
    num_classes: int = 1000,
    *,
    shortcut: NetworkShortcut = "projection",
    zero_init_residual: bool = False,
    layers: Layers = torch.nn,
) -> ResNet:
    """ResNet-18 for (N, 3, H, W), made for 224x224: 11 689 512 parameters at 1000 classes.

    shortcut: where a block changes the shape, "projection" (1x1 convolution, option B of the
        paper) or "zero_padding" (no parameters, A); "all_projection" everywhere (C).
    zero_init_residual: every block starts as its shortcut.
    layers: the module that gives Conv2d and the residual add, torch.nn or fastconv.nn; keys and
        weights are the same.
    Raises ValueError for another shortcut and for num_classes below 1.
    """
    return ResNet(
        BasicBlock,
        REPEATS[18],
        num_classes,
        shortcut=shortcut,
        zero_init_residual=zero_init_residual,
        layers=layers,
    )


def resnet34(
    num_classes: int = 1000,
    *,
    shortcut: NetworkShortcut = "projection",
    zero_init_residual: bool = False,
    layers: Layers = torch.nn,
) -> ResNet:
    """ResNet-34 for (N, 3, H, W), made for 224x224: 21 797 672 parameters at 1000 classes.

    Options and errors are those of resnet18.
    """
    return ResNet(
        BasicBlock,
        REPEATS[34],
        num_classes,
        shortcut=shortcut,
        zero_init_residual=zero_init_residual,
        layers=layers,
    )


def resnet50(
    num_classes: int = 1000,
    *,
    shortcut: NetworkShortcut = "projection",
    stride_in: StrideIn = "3x3",
    zero_init_residual: bool = False,
    layers: Layers = torch.nn,
) -> ResNet:
    """ResNet-50 for (N, 3, H, W), made for 224x224: 25 557 032 parameters at 1000 classes.

    stride_in: the convolution of a bottleneck that has the stride, "3x3" (torchvision, "v1.5") or
        "1x1" (the paper).
    The other options and errors are those of resnet18; ValueError for another stride_in too.
    """
    return ResNet(
        Bottleneck,
        REPEATS[50],
        num_classes,
        shortcut=shortcut,
        zero_init_residual=zero_init_residual,
        layers=layers,
        stride_in=stride_in,
    )


def resnet101(
    num_classes: int = 1000,
    *,
    shortcut: NetworkShortcut = "projection",
    stride_in: StrideIn = "3x3",
    zero_init_residual: bool = False,
    layers: Layers = torch.nn,
) -> ResNet:
    """ResNet-101 for (N, 3, H, W), made for 224x224: 44 549 160 parameters at 1000 classes.

    Options and errors are those of resnet50.
    """
    return ResNet(
        Bottleneck,
        REPEATS[101],
        num_classes,
        shortcut=shortcut,
        zero_init_residual=zero_init_residual,
        layers=layers,
        stride_in=stride_in,
    )


def resnet152(
    num_classes: int = 1000,
    *,
    shortcut: NetworkShortcut = "projection",
    stride_in: StrideIn = "3x3",
    zero_init_residual: bool = False,
    layers: Layers = torch.nn,
) -> ResNet:
    """ResNet-152 for (N, 3, H, W), made for 224x224: 60 192 808 parameters at 1000 classes.

    Options and errors are those of resnet50.
    """
    return ResNet(
        Bottleneck,
        REPEATS[152],
        num_classes,
        shortcut=shortcut,
        zero_init_residual=zero_init_residual,
        layers=layers,
        stride_in=stride_in,
    )
