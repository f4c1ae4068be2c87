"""Depthwise convolution as a layer."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from fastconv import ops
from fastconv.nn.conv2d import Conv2d


class DepthwiseConv2d(Conv2d):
    """torch.nn.Conv2d with groups = in_channels: its parameters, keys, repr and initialisation.

    Each of `channels` has `multiplier` filters; see :func:`fastconv.ops.depthwise_conv2d`.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
        multiplier: int = 1,
        activation: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            channels,
            channels * multiplier,
            kernel_size,
            stride,
            padding,
            dilation,
            groups=channels,
            bias=bias,
            activation=activation,
            **kwargs,
        )

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding: str | tuple[int, ...] = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = (0, 0)
        return ops.depthwise_conv2d(
            input, weight, bias, self.stride, padding, self.dilation, self.activation
        )
