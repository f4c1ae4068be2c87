"""A network for tests of `fastconv compare`: `tests.tiny_network:build`."""

from torch import nn


class TinyNetwork(nn.Sequential):
    input_size = (3, 16, 16)

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU6(),
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.Conv2d(8, 16, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 10),
        )


def build() -> nn.Module:
    return TinyNetwork()


def of_other_images() -> nn.Module:
    """Says that its images are grey, which they are not."""
    network = TinyNetwork()
    network.input_size = (1, 16, 16)
    return network


def not_a_network() -> str:
    return "a sentence"
