"""A script for tests of `fastconv profile`: blocks with a residual, one module called twice."""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, channels, 1)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.dense = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        hidden = self.relu(self.norm(self.expand(input)))
        return self.relu(input + self.dense(hidden))


model = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1),
    nn.LocalResponseNorm(5),
    Block(8),
    nn.Flatten(),
    nn.Linear(512, 4),
)
inputs = torch.randn(2, 3, 8, 8)

if __name__ == "__main__":
    raise SystemExit("a profile does not run this")
