"""Convolution, batch norm, activation: what mobile networks are made of."""

from collections.abc import Callable

from torch import nn

from fastconv.models.layers import Layers
from fastconv.models.same_padding import SamePad2d


class ConvNormActivation(nn.Sequential):
    """activation(norm(conv(input))) with TensorFlow's "same" padding.

    activation=None leaves the output linear. The children are named as in torchvision: "0" the
    convolution, "1" the norm, "2" the activation; "pad", where there is one, holds no parameters.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        *,
        layers: Layers,
        norm: Callable[[int], nn.Module],
        activation: Callable[[], nn.Module] | None,
    ) -> None:
        super().__init__()
        symmetric = stride == 1 and kernel_size % 2 == 1
        if not symmetric:
            self.add_module("pad", SamePad2d(kernel_size, stride))
        conv = layers.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=kernel_size // 2 if symmetric else 0,
            groups=groups,
            bias=False,
        )
        self.add_module("0", conv)
        self.add_module("1", norm(out_channels))
        if activation is not None:
            self.add_module("2", activation())
