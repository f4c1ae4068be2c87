"""A convolution over all channels as a layer."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from fastconv import ops
from fastconv.nn.conv2d import Conv2d


class DenseConv2d(Conv2d):
    """torch.nn.Conv2d over all channels; see :func:`fastconv.ops.dense_conv2d`.

    Constructor, parameters, keys and initialisation are torch's, plus `activation`; it takes no
    groups. The output is channels_last. The weight is packed at every call: networks for inference
    by :func:`fastconv.optimize` have theirs packed once.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.groups != 1:
            raise ValueError(f"DenseConv2d: expected groups 1, got {self.groups}")

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding: str | tuple[int, ...] = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = (0, 0)
        window = (self.stride, padding, self.dilation)
        return ops.dense_conv2d(input, weight, bias, None, *window, self.activation)
