"""What a network is built of: the layers of torch.nn, or those of fastconv.nn, by one argument."""

from typing import Any, Protocol

from torch import nn

from fastconv import reference
from fastconv.ops.local_response_norm import arguments_from_paper


class Layers(Protocol):
    """A module that holds these: torch.nn or fastconv.nn.

    Its BatchNorm2d and ResidualAdd are used if it has them.
    """

    @property
    def Conv2d(self) -> type[nn.Conv2d]: ...  # noqa: N802

    @property
    def LocalResponseNorm(self) -> type[nn.LocalResponseNorm]: ...  # noqa: N802


def batch_norm(layers: Layers, channels: int, **options: Any) -> nn.BatchNorm2d:
    """The batch norm of these layers, or torch's where they have none."""
    return getattr(layers, "BatchNorm2d", nn.BatchNorm2d)(channels, **options)


def residual_add(layers: Layers, activation: str | None = "relu") -> nn.Module:
    """The residual add of these layers, or that of torch's ops where they have none."""
    return getattr(layers, "ResidualAdd", reference.ResidualAdd)(activation)


def local_response_norm(layers: Layers) -> nn.Module:
    """LRN by the constants of Krizhevsky et al. 2012: n=5, k=2, alpha=1e-4 undivided, beta=0.75."""
    return layers.LocalResponseNorm(**arguments_from_paper())
