"""LeNet-5: LeCun, Bottou, Bengio and Haffner 1998, "Gradient-Based Learning Applied to Document
Recognition", Proceedings of the IEEE 86(11), section II.B and figure 2.

Height and width fall while the channels rise: conv, pool, conv, pool, two fully connected layers,
output. In today's form: ReLU, max pooling and a linear output, where the paper has tanh, average
pooling with a learned scale, a second convolution that sees only some channels, and radial units.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastconv.models.layers import Layers
from fastconv.models.network import Network


class Conv(NamedTuple):
    """A convolution without padding, ReLU, and 2x2 max pooling with stride 2."""

    channels: int
    kernel_size: int


CONVS = (
    Conv(channels=6, kernel_size=5),  # 32x32 -> 28x28, pooled to 14x14
    Conv(channels=16, kernel_size=5),  # 14x14 -> 10x10, pooled to 5x5
)
POOLED_SIZE = 5
WIDTHS = (120, 84)  # the fully connected layers between


class LeNet5(Network):
    """Convolutions, fully connected layers, output: (N, 1, 32, 32) -> (N, num_classes)."""

    input_size = (1, 32, 32)
    least_size = 32

    def __init__(self, num_classes: int, layers: Layers) -> None:
        super().__init__(num_classes)
        channels = self.input_size[0]
        features: list[nn.Module] = []
        for row in CONVS:
            features.append(layers.Conv2d(channels, row.channels, row.kernel_size))
            features.append(nn.ReLU(inplace=True))
            features.append(nn.MaxPool2d(2))
            channels = row.channels
        width = channels * POOLED_SIZE**2
        classifier: list[nn.Module] = []
        for wanted in WIDTHS:
            classifier.append(nn.Linear(width, wanted))
            classifier.append(nn.ReLU(inplace=True))
            width = wanted
        classifier.append(nn.Linear(width, num_classes))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(*classifier)

    def forward(self, input: Tensor) -> Tensor:
        self.check_image(input)
        return self.classifier(self.features(input).flatten(1))

    def check_image(self, input: Tensor) -> None:
        """The base's check, and RuntimeError for larger images: the first fully connected layer
        fixes the size."""
        super().check_image(input)
        height, width = input.shape[2:]
        if height > self.least_size or width > self.least_size:
            raise RuntimeError(
                f"LeNet5: expected images of {self.least_size}x{self.least_size} pixels, "
                f"got {height}x{width}"
            )


def lenet5(num_classes: int = 10, *, layers: Layers = torch.nn) -> LeNet5:
    """LeNet-5 for (N, 1, 32, 32): 61 706 parameters at 10 classes.

    num_classes: 10, not the other builders' 1000, for it reads digits; MNIST's 28x28 ones want two
    zeros on each side, as in the paper.
    layers: the module that gives Conv2d, torch.nn or fastconv.nn; keys and weights are the same.
    Images of any other size raise RuntimeError.
    """
    return LeNet5(num_classes, layers)
