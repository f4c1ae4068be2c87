"""Plain PyTorch as most people run it: eager, contiguous NCHW, no gradients."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def prepare(
    model: nn.Module, image: Tensor, dtype: torch.dtype, threads: int
) -> Callable[[], Tensor]:
    model, image = model.to(dtype), image.to(dtype)
    return torch.inference_mode()(lambda: model(image))
