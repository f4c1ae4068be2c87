"""The memory format a result takes: that of the first argument."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastconv.layout import memory_format_of


def empty_as(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """An empty tensor of the given shape in tensor's dtype, device and memory format."""
    memory_format = memory_format_of(tensor)
    return torch.empty(shape, dtype=tensor.dtype, device=tensor.device, memory_format=memory_format)


def channels_fastest(weight: Tensor) -> Tensor:
    """weight, of shape (out, in, kh, kw), stored as (kh, kw, in, out)."""
    return weight.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)
