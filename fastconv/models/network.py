"""What all networks here share: the images they take, and clear words about the others."""

from typing import Any

from torch import Tensor, nn


class Network(nn.Module):
    """An image classifier: (N, C, H, W) -> (N, num_classes).

    Unless it says otherwise it is its features, their average, and its classifier.

    Attributes:
        input_size: (C, H, W) of the images it is made for.
        least_size: pixels in height and in width that an image must have.
    """

    input_size: tuple[int, int, int] = (3, 224, 224)
    least_size: int = 1
    features: nn.Module
    avgpool: nn.Module
    classifier: nn.Module

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes

    def forward(self, input: Tensor) -> Any:
        self.check_image(input)
        return self.classifier(self.avgpool(self.features(input)).flatten(1))

    def check_image(self, input: Tensor) -> None:
        """Raises RuntimeError for an input that is no batch of images or has too small ones."""
        name = type(self).__name__
        if input.dim() != 4:
            raise RuntimeError(f"{name}: expected (N, C, H, W), got shape {tuple(input.shape)}")
        height, width = input.shape[2:]
        if height < self.least_size or width < self.least_size:
            raise RuntimeError(
                f"{name}: expected images of at least {self.least_size}x{self.least_size} pixels, "
                f"got {height}x{width}"
            )
