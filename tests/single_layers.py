"""Networks of a layer or two: what optimize must not make slower where there is little to gain.

LAYERS maps a name to a builder of the network and the size of one image.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

IMAGE, SMALL = (64, 28, 28), (16, 12, 12)


class Residual(nn.Module):
    """No weight at all."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + x.flip(0))


def chain(*layers: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*(layer() for layer in layers))


def conv(
    c: int, out: int, kernel: int, stride: int = 1, groups: int = 1
) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(c, out, kernel, stride, kernel // 2, groups=groups)


def _lenet() -> nn.Module:
    features = (nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh())
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(1024, 120), nn.Tanh())


class Sequences(nn.Module):
    """A causal depthwise convolution over time, a norm, a step-wise one (Conformer, Mamba)."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.pad, self.norm = (kernel - 1, 0), nn.BatchNorm1d(channels)
        self.depthwise = nn.Conv1d(channels, channels, kernel, groups=channels, bias=False)
        self.pointwise = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pointwise(F.silu(self.norm(self.depthwise(F.pad(x, self.pad)))))


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (Residual, IMAGE),
    "residual, small": (Residual, SMALL),
    "normalisation": (chain(lambda: nn.LocalResponseNorm(5)), IMAGE),
    "normalisation, small": (chain(lambda: nn.LocalResponseNorm(5)), SMALL),
    "depthwise": (chain(conv(64, 64, 3, groups=64), nn.ReLU), IMAGE),
    "depthwise, small": (chain(conv(16, 16, 3, groups=16)), SMALL),
    "depthwise 15x15": (chain(conv(64, 64, 15, groups=64)), IMAGE),
    "depthwise, stride 2": (chain(conv(64, 64, 3, 2, 64)), IMAGE),
    "pointwise": (chain(conv(64, 64, 1), nn.ReLU), IMAGE),
    "pointwise, wide": (chain(conv(64, 256, 1)), IMAGE),
    "pointwise, small": (chain(conv(16, 16, 1), nn.ReLU), SMALL),
    "pointwise, upsampled": (chain(conv(64, 16, 1), lambda: nn.Upsample(scale_factor=2)), IMAGE),
    "pointwise, softmax": (chain(conv(64, 64, 1), nn.Softmax2d), IMAGE),
    "separable": (chain(conv(64, 64, 3, groups=64), nn.ReLU, conv(64, 64, 1), nn.ReLU), IMAGE),
    "dense": (chain(conv(64, 64, 3), nn.ReLU), IMAGE),
    "dense, small": (chain(conv(16, 16, 3), nn.ReLU), SMALL),
    "dense, tanh": (chain(conv(64, 16, 3), nn.Tanh), IMAGE),
    "dense, shuffled": (chain(conv(64, 64, 3), lambda: nn.PixelShuffle(2)), IMAGE),
    "grouped": (chain(conv(64, 64, 3, groups=4)), IMAGE),
    "transposed": (chain(lambda: nn.ConvTranspose2d(64, 16, 2, 2), conv(16, 8, 1)), IMAGE),
    "stem": (chain(conv(3, 32, 3, 2), nn.ReLU), (3, 64, 64)),
    "stem, small": (chain(conv(3, 8, 3, 2), nn.ReLU), (3, 32, 32)),
    "max pool": (chain(lambda: nn.MaxPool2d(3, 2, 1)), IMAGE),
    "max pool, small": (chain(lambda: nn.MaxPool2d(2)), SMALL),
    "mean": (chain(lambda: nn.AdaptiveAvgPool2d(1), nn.Flatten), IMAGE),
    "mean, small": (chain(lambda: nn.AdaptiveAvgPool2d(1)), SMALL),
    "batch norm": (chain(lambda: nn.BatchNorm2d(64), nn.ReLU), IMAGE),
    "batch norm alone": (chain(lambda: nn.BatchNorm2d(64)), IMAGE),
    "batch norm, small": (chain(lambda: nn.BatchNorm2d(16), nn.ReLU), SMALL),
    "average pool": (chain(lambda: nn.AvgPool2d(2)), IMAGE),
    "activation": (chain(nn.ReLU), IMAGE),
    "linear": (chain(lambda: nn.Linear(512, 256)), (512,)),
    "linear, two": (chain(lambda: nn.Linear(512, 64), nn.ReLU, lambda: nn.Linear(64, 9)), (512,)),
    "sequence": (lambda: Sequences(128, 15), (128, 100)),
    "sequence, small": (lambda: Sequences(16, 4), (16, 20)),
    "sequence, depthwise": (chain(lambda: nn.Conv1d(128, 128, 4, groups=128)), (128, 100)),
    "sequence, pointwise": (chain(lambda: nn.Conv1d(128, 64, 1)), (128, 100)),
    "sequence, dense": (chain(lambda: nn.Conv1d(64, 64, 5), nn.ReLU), (64, 100)),
    "lenet": (_lenet, (1, 28, 28)),
}
