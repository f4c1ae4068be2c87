"""Plain torch, contiguous."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.goals.training.step import training_step


def prepare(
    model: nn.Module, image: Tensor, dtype: torch.dtype, threads: int
) -> Callable[[], Tensor]:
    return training_step(model, image, dtype)
