"""TensorFlow's "same" padding: the output is the input over the stride, rounded up, for any size.

At stride 1 it is the usual symmetric padding of an odd kernel. At stride 2 on an even size one row
and one column fewer are needed, and TensorFlow leaves them out at the top and left, where
torch.nn.Conv2d cannot.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class SamePad2d(nn.Module):
    """Zeros around (N, C, H, W) or (C, H, W) that make an unpadded convolution a "same" one.

    The amounts come from the input's shape: constants in a graph captured for one size.
    """

    def __init__(self, kernel_size: int, stride: int) -> None:
        super().__init__()
        if not 1 <= stride <= kernel_size:
            raise ValueError(f"stride must be 1 to kernel_size={kernel_size}, got {stride}")
        self.kernel_size = kernel_size
        self.stride = stride

    def amount(self, size: int) -> tuple[int, int]:
        """Zeros before and after an axis of this many pixels."""
        # As k - 1 - (size - 1) % stride it is the same number, but of an open size torch.export
        # wrote ever longer sums of remainders: 16 s for EfficientNet-Lite0 in place of 5
        # (any_size of `python -m bench.optimize`).
        total = (-(-size // self.stride) - 1) * self.stride + self.kernel_size - size
        return total // 2, total - total // 2

    def forward(self, input: Tensor) -> Tensor:
        height, width = input.shape[-2:]
        return F.pad(input, (*self.amount(width), *self.amount(height)))

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}"
