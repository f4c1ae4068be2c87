"""From bytes to what a network takes: a crop, minus the training set's mean, over its spread."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastconv.recipes.images import Images

CHUNK = 256  # images in memory at once while their colours are counted


@dataclass(frozen=True)
class Preprocessing:
    """size: pixels in height and width; mean, one a channel, and std, of pixels from 0 to 1."""

    size: int
    mean: tuple[float, ...]
    std: float

    def normalise(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) from 0 to 1, minus the mean, over std."""
        return (images - torch.tensor(self.mean).view(-1, 1, 1)) / self.std

    def crop(self, images: Tensor) -> Tensor:
        """The middle of size x size, normalised, of bytes (N, C, side, side); float32."""
        return self.normalise(as_floats(crop(images, self.size, 1 / 2, 1 / 2)))


# (x - 127) / 128, as the authors of EfficientNet-Lite trained it.
EFFICIENTNET_LITE_MEAN, EFFICIENTNET_LITE_STD = (127 / 255,) * 3, 128 / 255


def as_floats(images: Tensor) -> Tensor:
    return images.float() / 255


def crop(images: Tensor, size: int, down: float, right: float) -> Tensor:
    """A square of size x size at this share of the margin from the top and from the left."""
    height, width = images.shape[-2:]
    top, left = int((height - size) * down), int((width - size) * right)
    return images[..., top : top + size, left : left + size]


@dataclass(frozen=True)
class Colours:
    """mean (C,) and covariance (C, C) of all pixels of a set, from 0 to 1; float64."""

    mean: Tensor
    covariance: Tensor

    def preprocessing(self, size: int) -> Preprocessing:
        spread = self.covariance.diagonal().mean().sqrt().item()
        return Preprocessing(size, tuple(self.mean.tolist()), spread or 1.0)


def colours(images: Images) -> Colours:
    """The colours of every image once, as Krizhevsky et al. 2012 take them of the training set."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for places in indices(len(images.labels), CHUNK):
        pixels = as_floats(images.read(places)).transpose(0, 1).flatten(1).double()
        count += pixels.shape[1]
        total = total + pixels.sum(1)
        squares = squares + pixels @ pixels.T
    mean = total / count
    return Colours(mean, squares / count - mean.outer(mean))


def indices(count: int, batch: int) -> list[Sequence[int]]:
    """0 to count - 1 in batches."""
    return [range(start, min(start + batch, count)) for start in range(0, count, batch)]
