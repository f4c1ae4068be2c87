"""Squeeze-and-excitation: Hu, Shen and Sun 2018, arXiv 1709.01507, section 3."""

import torch
from torch import Tensor, nn

from fastconv.models.layers import Layers


class SqueezeExcitation(nn.Module):
    """Weighs each channel by what all channels hold: input * sigmoid(fc2(silu(fc1(mean)))).

    fc1 goes from `channels` to `squeezed`, fc2 back; both are 1x1 convolutions of the 1x1 mean.
    EfficientNet has SiLU where the paper has ReLU.
    """

    def __init__(self, channels: int, squeezed: int, *, layers: Layers) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = layers.Conv2d(channels, squeezed, 1)
        self.activation = nn.SiLU()
        self.fc2 = layers.Conv2d(squeezed, channels, 1)

    def forward(self, input: Tensor) -> Tensor:
        squeezed = self.activation(self.fc1(self.avgpool(input)))
        return input * torch.sigmoid(self.fc2(squeezed))
