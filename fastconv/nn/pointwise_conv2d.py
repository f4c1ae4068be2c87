"""The pointwise convolution as a layer."""

from typing import Any

from torch import Tensor

from fastconv import ops
from fastconv.nn.conv2d import Conv2d


class PointwiseConv2d(Conv2d):
    """activation(conv1x1(input) + residual); see :func:`fastconv.ops.pointwise_conv2d`.

    The parameters, keys and initialisation of ``torch.nn.Conv2d(in_channels, out_channels, 1)``;
    ``options`` are its device and dtype.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int | tuple[int, int] = 1,
        bias: bool = True,
        activation: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            in_channels, out_channels, 1, stride, bias=bias, activation=activation, **options
        )

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        return ops.pointwise_conv2d(
            input, self.weight, self.bias, residual, self.stride, self.activation
        )
