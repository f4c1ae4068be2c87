"""Our layers through swap_, channels_last."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import fastconv
from bench.goals.training.step import training_step


def prepare(
    model: nn.Module, image: Tensor, dtype: torch.dtype, threads: int
) -> Callable[[], Tensor]:
    memory_format = torch.channels_last
    model = fastconv.swap_(model.to(memory_format=memory_format))  # type: ignore[call-overload]
    return training_step(model, image.contiguous(memory_format=memory_format), dtype)
