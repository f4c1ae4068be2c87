"""Convolutions that are not ours: torch's own kernels, the activation fused where it can be."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import conv_flop_count, register_flop_formula

from fastconv.reference import activate

# oneDNN's names for our activations, with their scalars.
_ONEDNN_ACTIVATIONS: dict[str | None, tuple[str, list[float]]] = {
    None: ("none", []),
    "relu": ("relu", []),
    "relu6": ("hardtanh", [0.0, 6.0]),
    "silu": ("swish", []),
    "hardswish": ("hardswish", []),
}


class DenseConv2d(nn.Module):
    """activation(conv2d(padded input, weight) + bias) with padding (top, left, bottom, right)."""

    def __init__(
        self,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
        activation: str | None,
    ) -> None:
        super().__init__()
        top, left, bottom, right = padding
        self.symmetric = (top, left) == (bottom, right)
        self.pad = (left, right, top, bottom)
        padding = [top, left] if self.symmetric else [0, 0]
        self.arguments: tuple[Any, ...] = (stride, padding, dilation, groups)
        self.activation = activation

    def forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self.symmetric:
            input = F.pad(input, self.pad)
        stride, padding, dilation, groups = self.arguments
        fused = input.device.type == "cpu" and input.dtype in (torch.float32, torch.bfloat16)
        if not fused or not torch.backends.mkldnn.is_available():
            output = F.conv2d(input, weight, bias, stride, padding, dilation, groups)
            return activate(output, self.activation)
        name, scalars = _ONEDNN_ACTIVATIONS[self.activation]
        return torch.ops.mkldnn._convolution_pointwise(
            input, weight, bias, padding, stride, dilation, groups, name, scalars, ""
        )


if torch.backends.mkldnn.is_available():

    @register_flop_formula(torch.ops.mkldnn._convolution_pointwise)
    def flops(
        input_shape: list[int],
        weight_shape: list[int],
        *_args: object,
        out_shape: list[int],
        **_kwargs: object,
    ) -> int:
        """Those of the convolution, as torch counts it where nothing is fused."""
        return conv_flop_count(input_shape, weight_shape, out_shape)
