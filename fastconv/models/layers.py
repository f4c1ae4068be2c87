"""What a network is built of: the layers of torch.nn, or those of fastconv.nn, by one argument."""

from typing import Protocol

from torch import nn

from fastconv import reference


class Layers(Protocol):
    """A module that holds these: torch.nn or fastconv.nn. Its ResidualAdd is used if it has one."""

    @property
    def Conv2d(self) -> type[nn.Conv2d]: ...  # noqa: N802

    @property
    def LocalResponseNorm(self) -> type[nn.LocalResponseNorm]: ...  # noqa: N802


def residual_add(layers: Layers, activation: str | None = "relu") -> nn.Module:
    """The residual add of these layers, or that of torch's ops where they have none."""
    return getattr(layers, "ResidualAdd", reference.ResidualAdd)(activation)
