"""Augmentation by name: each image is shown otherwise at every pass, and means the same."""

from collections.abc import Callable, Sequence
from math import pi, sqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastconv.recipes.libraries import library

DEGREES = 10.0
WARP = 0.02  # how far a pixel moves by local warping, root mean square, as a share of the side
COLOUR = 0.1  # the furthest shift of a channel, of pixels from 0 to 1
PCA_SPREAD = 0.1  # of the random factors, as in the paper


class PcaColour(nn.Module):
    """Shifts the colours of each image along the principal components of the training set.

    Krizhevsky, Sutskever and Hinton 2012, section 4.1: to every pixel sum_i a_i l_i p_i is added,
    with p_i and l_i eigenvectors and eigenvalues of the RGB covariance and a_i normal with a spread
    of 0.1. Images (N, C, H, W) float32 from 0 to 1.
    """

    def __init__(self, covariance: Tensor) -> None:
        super().__init__()
        values, vectors = torch.linalg.eigh(covariance)
        self.steps = (vectors * values.clamp(min=0)).float()

    def forward(self, images: Tensor) -> Tensor:
        factors = PCA_SPREAD * torch.randn(len(images), self.steps.shape[1])
        return (images + (factors @ self.steps.T)[:, :, None, None]).clamp(0, 1)


class LocalWarp(nn.Module):
    """Moves pixels by a smooth random field, neighbours alike: Simard, Steinkraus and Platt 2003.

    A move reaches over an eighth of the side, as their 4 pixels did of 29.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        sigma = max(1.0, side / 8)
        # Noise from -1 to 1 (spread 1 / sqrt 3) keeps 1 / (2 sigma sqrt pi) of its spread when it
        # is blurred; kornia's coordinates are 2 for the whole side.
        alpha = 2 * WARP * sqrt(3) * 2 * sigma * sqrt(pi)
        kernel = 2 * round(2 * sigma) + 1
        self.warp = library("kornia.augmentation").RandomElasticTransform(
            (kernel, kernel), (sigma, sigma), (alpha, alpha), padding_mode="reflection", p=1.0
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.warp(images)


class Wanted(NamedTuple):
    """What an augmentation may need to know of the images."""

    size: int  # pixels in height and width that the network sees
    side: int  # and that it is cropped from
    channels: int
    covariance: Tensor | None = None  # of the training set's colours: (channels, channels)


def affine(**options: float) -> nn.Module:
    kinds = library("kornia.augmentation")
    arguments = {"degrees": 0.0, **options}
    return kinds.RandomAffine(**arguments, padding_mode="reflection", p=1.0)


def mirror(wanted: Wanted) -> nn.Module:
    return library("kornia.augmentation").RandomHorizontalFlip(p=0.5)


def random_crop(wanted: Wanted) -> nn.Module:
    return library("kornia.augmentation").RandomCrop((wanted.size, wanted.size))


def rotate(wanted: Wanted) -> nn.Module:
    return affine(degrees=DEGREES)


def shear(wanted: Wanted) -> nn.Module:
    return affine(shear=DEGREES)


def warp(wanted: Wanted) -> nn.Module:
    return LocalWarp(wanted.side)


def colour(wanted: Wanted) -> nn.Module:
    if wanted.channels != 3:
        raise ValueError(
            f"augmentation 'colour' needs 3 channels, the images have {wanted.channels}"
        )
    return library("kornia.augmentation").RandomRGBShift(COLOUR, COLOUR, COLOUR, p=1.0)


def pca(wanted: Wanted) -> nn.Module:
    if wanted.covariance is None:
        raise ValueError("augmentation 'pca' needs the covariance of the training set's colours")
    return PcaColour(wanted.covariance)


# In the order in which they are applied; the crop last of those that move pixels, so that it cuts
# off what the others had to make up at the edges.
KINDS: dict[str, Callable[[Wanted], nn.Module]] = {
    "mirror": mirror,
    "rotate": rotate,
    "shear": shear,
    "warp": warp,
    "crop": random_crop,
    "colour": colour,
    "pca": pca,
}


def augmentation(names: Sequence[str], wanted: Wanted) -> nn.Module:
    """All of these at once, for images (N, C, side, side) float32 from 0 to 1.

    Without "crop" the output keeps the side; the middle of `size` is then to be taken.
    Raises ValueError for an unknown name, for a shift of colour of grey images, and for "pca"
    without a covariance.
    """
    for name in names:
        if name not in KINDS:
            raise ValueError(f"unknown augmentation {name!r}: there are {', '.join(KINDS)}")
    return nn.Sequential(*(make(wanted) for name, make in KINDS.items() if name in names))
