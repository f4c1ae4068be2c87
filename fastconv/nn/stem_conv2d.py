"""The first convolution of a network as a layer."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from fastconv import ops
from fastconv.nn.conv2d import Conv2d


class StemConv2d(Conv2d):
    """torch.nn.Conv2d over an image of few channels; see :func:`fastconv.ops.stem_conv2d`.

    Constructor, parameters, keys and initialisation are torch's, plus `activation`; it takes no
    groups and no dilation. The output is channels_last.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.groups != 1 or self.dilation != (1, 1):
            raise ValueError(
                f"StemConv2d: expected groups 1 and dilation 1, got {self.groups} and "
                f"{self.dilation}"
            )

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding: str | tuple[int, ...] = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = (0, 0)
        return ops.stem_conv2d(input, weight, bias, self.stride, padding, self.activation)
