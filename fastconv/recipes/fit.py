"""The training loop: one pass over the batches, and the learning rate of each step."""

from collections.abc import Callable, Iterable
from math import cos, pi

import torch
from torch import Tensor, nn

from fastconv.recipes.loader import Batch

WARM_UP = 0.1  # share of the steps over which the rate rises


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Up in a line, then down to zero along a cosine. A function of the step, so that a resumed run
    needs no more than its number."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (1 + cos(pi * (step + 1 - warm) / (steps - warm + 1))) / 2


def fit_epoch(
    forward: Callable[[Tensor], Tensor],
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    rate: Callable[[int], float],
    smoothing: float,
) -> float:
    """A step for each batch, step i at the rate rate(i). Returns the mean loss.

    Raises FloatingPointError where the loss is no number any more.
    """
    measure = nn.CrossEntropyLoss(label_smoothing=smoothing)
    losses = []
    for step, (images, labels) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        loss = measure(forward(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if losses[-1] != losses[-1]:
            raise FloatingPointError(f"the loss is NaN at step {step}: lower the rate")
    return sum(losses) / len(losses)


@torch.no_grad()
def accuracy(forward: Callable[[Tensor], Tensor], batches: Iterable[Batch]) -> float:
    """The share of the images whose largest output is that of their label."""
    right = count = 0
    for images, labels in batches:
        right += int((forward(images).argmax(1) == labels).sum())
        count += len(labels)
    return right / count
