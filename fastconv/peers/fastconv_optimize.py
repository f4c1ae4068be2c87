"""fastconv.optimize, given what a user has: the eager model and a contiguous image."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def prepare(
    model: nn.Module, image: Tensor, dtype: torch.dtype, threads: int
) -> Callable[[], Tensor]:
    import fastconv

    image = image.to(dtype)
    optimized = fastconv.optimize(model, (image,), dtype=dtype)
    return torch.inference_mode()(lambda: optimized(image))
