"""What networks say of images: averaged over crops of an image, and over networks."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import fastconv
from fastconv.data import class_names
from fastconv.models import build
from fastconv.recipes.checkpoint import load_network
from fastconv.recipes.images import Images, padded, read_image
from fastconv.recipes.loader import Reader, in_order
from fastconv.recipes.preprocess import (
    EFFICIENTNET_LITE_MEAN,
    EFFICIENTNET_LITE_STD,
    Preprocessing,
    as_floats,
    crop,
)
from fastconv.recipes.sources import Shape

PUBLISHED = "efficientnet_lite0"
BATCH = 32
CENTRE = ((1 / 2, 1 / 2),)
CORNERS = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))
CROPS = (1, 5, 10)


@dataclass
class Predictor:
    """A network, what its outputs mean, and how it wants images."""

    network: nn.Module
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    trained_on: str

    @property
    def shape(self) -> Shape:
        return Shape(len(self.preprocessing.mean), padded(self.preprocessing.size))

    @torch.inference_mode()
    def probabilities(self, pixels: Tensor, crops: int = 1) -> Tensor:
        """(N, classes) for bytes (N, C, side, side): the mean over the crops of each image."""
        found = [
            self.network(self.preprocessing.normalise(as_floats(view))).softmax(1)
            for view in views(pixels, self.preprocessing.size, crops)
        ]
        return torch.stack(found).mean(0)


def views(pixels: Tensor, size: int, crops: int) -> Iterator[Tensor]:
    """The middle; of 5 the corners too; of 10 all these mirrored too (Krizhevsky et al. 2012, 4.1).

    Raises ValueError for another number.
    """
    if crops not in CROPS:
        raise ValueError(f"crops must be one of 1, 5, 10, got {crops}")
    for place in CENTRE + CORNERS * (crops > 1):
        view = crop(pixels, size, *place).contiguous(memory_format=torch.channels_last)
        yield view
        if crops == 10:
            yield view.flip(3)


def published() -> Predictor:
    """EfficientNet-Lite0 with its ImageNet weights and the 1000 names of its classes."""
    network = build(PUBLISHED, pretrained=True).eval()
    size = network.input_size[1]
    preprocessing = Preprocessing(size, EFFICIENTNET_LITE_MEAN, EFFICIENTNET_LITE_STD)
    return Predictor(fastconv.swap_(network), tuple(class_names()), preprocessing, "ImageNet")


def predictor(path: Path) -> Predictor:
    """The network of a checkpoint, its weights mapped from the file. Raises as load_network."""
    checkpoint, network = load_network(path)
    if checkpoint.recipe.swapped:
        fastconv.swap_(network)
    recipe = checkpoint.recipe
    return Predictor(network, checkpoint.classes, checkpoint.preprocessing, recipe.data)


class Ensemble:
    """Networks whose probabilities are averaged: 1, or 3 to 15, or more.

    Raises ValueError for networks of other classes or of another size of image than the first's.
    """

    def __init__(self, members: Sequence[Predictor]) -> None:
        if not members:
            raise ValueError("an ensemble needs a network")
        self.members = list(members)
        self.classes, self.shape = members[0].classes, members[0].shape
        for member in members:
            if (member.classes, member.shape) != (self.classes, self.shape):
                raise ValueError(
                    "the networks of an ensemble must have the same classes and take images of "
                    f"one size, got {len(member.classes)} classes and {member.shape} beside "
                    f"{len(self.classes)} and {self.shape}"
                )

    def of_each(self, images: Images, crops: int = 1, workers: int = 0) -> Tensor:
        """(members, N, classes) for images of `shape`; their mean over the first is the answer."""
        found = [
            torch.stack([member.probabilities(pixels, crops) for member in self.members])
            for pixels, _ in in_order(Reader(images), BATCH, workers)
        ]
        return torch.cat(found, dim=1)

    def of_files(self, paths: Iterable[Path], crops: int = 1) -> Iterator[Tensor]:
        """(classes,) for each image file. Raises ImageError naming it."""
        for path in paths:
            pixels = read_image(path, self.shape.channels, self.shape.side)[None]
            said = [member.probabilities(pixels, crops)[0] for member in self.members]
            yield torch.stack(said).mean(0)
