"""Stochastic depth: Huang et al. 2016, arXiv 1603.09382, section 3."""

from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """Drops the branch of a residual block in training, for each image on its own.

    In training an image of the batch becomes zero with this probability, and the others are
    divided by 1 - probability, so that the mean stays. In eval mode nothing happens.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"probability must be at least 0 and below 1, got {probability}")
        self.probability = probability

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return input
        survival = 1 - self.probability
        rows = input.new_empty(input.shape[0], *[1] * (input.dim() - 1))
        return input * rows.bernoulli_(survival).div_(survival)

    def extra_repr(self) -> str:
        return f"probability={self.probability}"
