"""A network with every layer that swap_ replaces and a dense one, small enough to compile."""

import copy

import torch
from torch import Tensor, nn

import fastconv
from fastconv import reference

CLASSES = 5


class Block(nn.Module):
    """Expand, depthwise and project with batch norms; the input is added."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False),
            *(nn.BatchNorm2d(hidden), nn.SiLU()),
            *(nn.Conv2d(hidden, channels, 1), nn.BatchNorm2d(channels)),
        )
        self.add = reference.ResidualAdd()

    def forward(self, input: Tensor) -> Tensor:
        return self.add(self.layers(input), input)


class SmallNetwork(nn.Module):
    """(N, 3, H, W) -> (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.LocalResponseNorm(5))
        self.block = Block(8, 16)
        self.head = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.ReLU())
        self.classifier = nn.Linear(12, CLASSES)

    def forward(self, input: Tensor) -> Tensor:
        features = self.head(self.block(self.stem(input)))
        return self.classifier(features.mean((2, 3)))


def images(batch: int = 4, size: int = 12) -> Tensor:
    return torch.randn(batch, 3, size, size)


def plain_and_swapped() -> tuple[nn.Module, nn.Module]:
    """Two networks of the same weights and batch-norm statistics, torch's and ours, to evaluate."""
    plain = SmallNetwork()
    with torch.no_grad():
        for _ in range(3):
            plain(images())
    plain.eval()
    return plain, fastconv.swap_(copy.deepcopy(plain))
