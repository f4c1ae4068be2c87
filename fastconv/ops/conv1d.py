"""conv1d: torch's signature plus an activation; our kernel where the shape has one."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from fastconv.ops.conv2d import conv2d, is_depthwise, is_pointwise
from fastconv.reference import activate

IntOrOne = int | Sequence[int]


def has_kernel(weight_shape: Sequence[int], groups: int, padding: str | IntOrOne) -> bool:
    """Whether our kernels serve a convolution of sequences: depthwise, or one step wide."""
    image = (*weight_shape[:2], 1, *weight_shape[2:])
    return is_depthwise(image, groups) or is_pointwise(image, groups, padding)


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrOne = 1,
    padding: str | IntOrOne = 0,
    dilation: IntOrOne = 1,
    groups: int = 1,
    activation: str | None = None,
) -> Tensor:
    """activation(torch.nn.functional.conv1d(...)): same arguments, shapes and errors.

    Depthwise kernels and those of one step run on our kernels, as over images of one row; all
    others on torch's own.
    """
    tensors = isinstance(input, Tensor) and isinstance(weight, Tensor)
    sequences = tensors and weight.dim() == 3 and input.dim() in (2, 3)
    if sequences and isinstance(groups, int) and has_kernel(weight.shape, groups, padding):
        window = (_of_row(stride, 1), _of_row(padding, 0), _of_row(dilation, 1))
        image, kernel = input.unsqueeze(-2), weight.unsqueeze(-2)
        return conv2d(image, kernel, bias, *window, groups, activation).squeeze(-2)
    return activate(F.conv1d(input, weight, bias, stride, padding, dilation, groups), activation)


def _of_row(value: Any, height: int) -> Any:
    if isinstance(value, str):
        return value
    return (height, *value) if isinstance(value, (tuple, list)) else (height, value)
