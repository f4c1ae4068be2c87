"""Depthwise convolution of sequences as a layer."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fastconv import ops, reference


class DepthwiseConv1d(nn.Conv1d):
    """torch.nn.Conv1d with groups = in_channels: its parameters, keys, repr and initialisation.

    padding='causal' pads only before the sequence; see :func:`fastconv.ops.depthwise_conv1d`.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int | tuple[int],
        stride: int | tuple[int] = 1,
        padding: str | int | tuple[int] = 0,
        dilation: int | tuple[int] = 1,
        bias: bool = True,
        multiplier: int = 1,
        activation: str | None = None,
        **kwargs: Any,
    ) -> None:
        reference.check_activation(activation)
        outputs = channels * multiplier
        known = 0 if padding == "causal" else padding
        super().__init__(
            channels, outputs, kernel_size, stride, known, dilation, channels, bias, **kwargs
        )
        self.activation = activation
        if padding == "causal":
            self.padding = padding
            if self.padding_mode != "zeros":
                raise ValueError("padding='causal' pads with zeros")

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding: str | tuple[int, ...] = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = "valid"
        return ops.depthwise_conv1d(
            input, weight, bias, self.stride[0], padding, self.dilation[0], self.activation
        )

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return f"{text}, activation={self.activation!r}" if self.activation else text
