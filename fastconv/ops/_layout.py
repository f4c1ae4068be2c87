"""The memory format a result takes; the same rule as layout_of in csrc/ops/tensor.cpp."""

from collections.abc import Sequence

import torch
from torch import Tensor


def memory_format_of(tensor: Tensor) -> torch.memory_format:
    """channels_last where the strides say so, else contiguous; ties go to contiguous."""
    if tensor.dim() != 4 or tensor.is_contiguous():
        return torch.contiguous_format
    if tensor.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    channel, row, column = tensor.stride()[1:]
    channels_fastest = tensor.shape[1] > 1 and channel < column and channel < row
    return torch.channels_last if channels_fastest else torch.contiguous_format


def empty_as(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """An empty tensor of the given shape in tensor's dtype, device and memory format."""
    return tensor.new_empty(shape).contiguous(memory_format=memory_format_of(tensor))


def channels_fastest(weight: Tensor) -> Tensor:
    """weight, of shape (out, in, kh, kw), stored as (kh, kw, in, out)."""
    return weight.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)
