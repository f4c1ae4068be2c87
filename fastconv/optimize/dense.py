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
        self._packed: tuple[Tensor, int, Tensor] | None = None

    def forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self.symmetric:
            input = F.pad(input, self.pad)
        stride, padding, dilation, groups = self.arguments
        plain = type(input) is Tensor or torch.compiler.is_compiling()  # no DTensor, for one
        fused = plain and input.is_cpu and input.dtype in (torch.float32, torch.bfloat16)
        # An exported program is for any machine.
        if not fused or not torch.backends.mkldnn.is_available() or torch.compiler.is_exporting():
            output = F.conv2d(input, weight, bias, stride, padding, dilation, groups)
            return activate(output, self.activation)
        name, scalars = _ONEDNN_ACTIVATIONS[self.activation]
        if not torch.compiler.is_compiling():
            weight = self._pack(input, weight)
        return torch.ops.mkldnn._convolution_pointwise(
            input, weight, bias, padding, stride, dilation, groups, name, scalars, ""
        )

    def _pack(self, input: Tensor, weight: Tensor) -> Tensor:
        """weight in oneDNN's own order, which is neither copied nor pickled: made at first use.

        A plain weight is brought to that order at every call: 512 -> 512, 3x3, 7x7 pixels took 844
        us, packed 477; the 3x3 layers of ResNet-50 10 to 14 % less at 56x56 and 28x28, 18 % at
        14x14, 43 % at 7x7 (batch 1, 2 threads, Zen 5, minimum of 14 turns).
        """
        version = 0 if weight.is_inference() else weight._version
        if self._packed is None or self._packed[0] is not weight or self._packed[1] != version:
            stride, padding, dilation, groups = self.arguments
            packed = torch.ops.mkldnn._reorder_convolution_weight(
                weight, padding, stride, dilation, groups, list(input.shape)
            )
            self._packed = weight, version, packed
        return self._packed[2]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}


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
