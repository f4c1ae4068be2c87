"""One step of training as a call that gives its loss."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def training_step(model: nn.Module, images: Tensor, dtype: torch.dtype) -> Callable[[], Tensor]:
    """Forward under autocast where dtype is not float32, backward, SGD."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # so that all rivals begin with the same loss
    labels = torch.arange(len(images))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    @torch.enable_grad()
    def step() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step
