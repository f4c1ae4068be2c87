"""The memory format of a tensor; the same rule as layout_of in csrc/ops/tensor.cpp."""

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
