"""Correlations as the kernels of depthwise_conv2d without phases take them: either direction."""

from dataclasses import dataclass

from torch import Tensor

from fastconv.triton_kernels._depthwise import Window
from fastconv.triton_kernels._kernel import cdiv


@dataclass(frozen=True)
class Correlation:
    """A window from its first source, and whether it meets the filters turned around."""

    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    dilation_h: int
    dilation_w: int
    pad_top: int
    pad_left: int
    flipped: bool
    multiplier: int

    @classmethod
    def of(
        cls, source: Tensor, weight: Tensor, output: Tensor, window: Window, transposed: bool
    ) -> "Correlation | None":
        """Transposed, there is one without a stride; None where there is none."""
        (stride_h, stride_w), (top, left, *_), (dilation_h, dilation_w) = window
        kernel_h, kernel_w = weight.shape[2:]
        multiplier = weight.shape[0] // min(output.shape[1], source.shape[1])
        if transposed:
            if stride_h * stride_w * multiplier > 1:
                return None
            top, left = dilation_h * (kernel_h - 1) - top, dilation_w * (kernel_w - 1) - left
        steps = (stride_h, stride_w, dilation_h, dilation_w)
        return cls(kernel_h, kernel_w, *steps, top, left, transposed, multiplier)

    @property
    def reach(self) -> int:
        """Columns from the first to the last that an output reads."""
        return (self.kernel_w - 1) * self.dilation_w + 1

    def constants(self) -> dict[str, int]:
        return {name.upper(): value for name, value in vars(self).items()}


def rows_of(height: int, most: int) -> int:
    """Rows of a tile, from the most down to half as many: those that leave the fewest over."""
    choice = (min(n, height) for n in range(most, most // 2, -1))
    return min(choice, key=lambda n: cdiv(height, n) * n)
