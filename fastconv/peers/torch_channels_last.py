"""Plain PyTorch, eager, model and image in channels_last: often the better layout on a CPU."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def prepare(
    model: nn.Module, image: Tensor, dtype: torch.dtype, threads: int
) -> Callable[[], Tensor]:
    model = model.to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = image.to(dtype, memory_format=torch.channels_last)
    return torch.inference_mode()(lambda: model(image))
