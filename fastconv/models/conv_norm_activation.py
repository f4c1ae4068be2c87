"""Convolution, batch norm, activation: what mobile networks are made of."""

from collections.abc import Callable, Mapping
from math import sqrt
from types import MappingProxyType

from torch import nn

from fastconv.models.layers import Layers, batch_norm
from fastconv.models.same_padding import SamePad2d

# Arguments of a batch norm: none leave eps and momentum as torch has them.
DEFAULTS: Mapping[str, float] = MappingProxyType({})


class ConvNormActivation(nn.Sequential):
    """activation(norm(conv(input))), with kernel_size // 2 zeros on every side.

    same_padding=True: TensorFlow's "same" padding, which differs where the stride is above 1.
    norm: arguments of the batch norm. activation=None leaves the output linear. The children are
    named as in torchvision: "0" the convolution, "1" the norm, "2" the activation; "pad", where
    there is one, holds no parameters.
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
        activation: Callable[[], nn.Module] | None,
        norm: Mapping[str, float] = DEFAULTS,
        same_padding: bool = False,
    ) -> None:
        super().__init__()
        pads_itself = same_padding and not (stride == 1 and kernel_size % 2 == 1)
        if pads_itself:
            self.add_module("pad", SamePad2d(kernel_size, stride))
        conv = layers.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=0 if pads_itself else kernel_size // 2,
            groups=groups,
            bias=False,
        )
        self.add_module("0", conv)
        self.add_module("1", batch_norm(layers, out_channels, **norm))
        if activation is not None:
            self.add_module("2", activation())


def initialise(module: nn.Module) -> None:
    """Convolutions as He et al. 2015, equation 14, with the outputs of one group; zero biases.

    So have it the authors of EfficientNet. A classifier keeps torch's uniform 1 / sqrt(inputs);
    their 1 / sqrt(classes) is the same at 1000 classes, and with few gives losses far above chance.
    """
    if isinstance(module, nn.Conv2d):
        fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
