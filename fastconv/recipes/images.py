"""Labelled images of one size, in memory or in files; read as bytes, whole batches at a time."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor

from fastconv.recipes.libraries import library

MARGIN = 14  # a margin of 1 pixel on each side for so many: 224 of 256, as in Krizhevsky et al.


def padded(size: int) -> int:
    """The side of the square that is read, to crop from, where the network sees `size`."""
    return size + 2 * round(size / MARGIN)


class ImageError(ValueError):
    """A file that is no image the network can take; the message names it."""


class Images(Protocol):
    """Images (N, C, side, side) with a label each, an index into `classes`."""

    classes: tuple[str, ...]
    labels: Tensor  # (N,) int64

    def read(self, indices: Sequence[int]) -> Tensor:
        """The images at these places: (n, C, side, side) uint8. Raises ImageError."""
        ...

    def subset(self, chosen: Tensor) -> Self:
        """Those of these places, in this order: (n,) int64."""
        ...

    def digest(self) -> str:
        """Another where an image, a label or their order is another, or a file was written to."""
        ...


def check_labels(labels: Tensor, classes: Sequence[str]) -> None:
    """Raises ValueError for labels that are no index into classes, and where there are none."""
    if labels.dim() != 1 or labels.dtype != torch.int64:
        raise ValueError(f"labels must be (N,) int64, got {tuple(labels.shape)} {labels.dtype}")
    if not len(labels):
        raise ValueError("there are no images")
    for place in ((labels < 0) | (labels >= len(classes))).nonzero().flatten().tolist():
        raise ValueError(
            f"the label of image {place} is {int(labels[place])}, with {len(classes)} classes "
            f"labels go from 0 to {len(classes) - 1}"
        )


@dataclass
class TensorImages:
    """Images in memory: pixels (N, C, side, side) uint8."""

    classes: tuple[str, ...]
    labels: Tensor
    pixels: Tensor

    def __post_init__(self) -> None:
        check_labels(self.labels, self.classes)
        if self.pixels.dtype != torch.uint8 or self.pixels.dim() != 4:
            raise TypeError(
                f"pixels must be (N, C, H, W) uint8, got {tuple(self.pixels.shape)} "
                f"{self.pixels.dtype}"
            )
        if len(self.pixels) != len(self.labels):
            raise ValueError(f"{len(self.pixels)} images have {len(self.labels)} labels")

    def read(self, indices: Sequence[int]) -> Tensor:
        return self.pixels[torch.as_tensor(indices)]

    def subset(self, chosen: Tensor) -> Self:
        return replace(self, labels=self.labels[chosen], pixels=self.pixels[chosen])

    def digest(self) -> str:
        return digest_of(self.classes, self.labels.tolist(), self.pixels.contiguous().numpy().data)


@dataclass
class FileImages:
    """Images in files of any size, read when asked for: the middle square, resized to side."""

    classes: tuple[str, ...]
    labels: Tensor
    paths: tuple[Path, ...]
    channels: int
    side: int

    def __post_init__(self) -> None:
        check_labels(self.labels, self.classes)

    def read(self, indices: Sequence[int]) -> Tensor:
        return torch.stack([read_image(self.paths[i], self.channels, self.side) for i in indices])

    def subset(self, chosen: Tensor) -> Self:
        paths = tuple(self.paths[index] for index in chosen.tolist())
        return replace(self, labels=self.labels[chosen], paths=paths)

    def digest(self) -> str:
        """By name, size and time of each file, none of which is opened. Raises ImageError."""
        files = []
        for path in self.paths:
            try:
                status = path.stat()
            except OSError as error:
                raise ImageError(f"{path}: {reason(path, error)}") from error
            files.append((str(path), status.st_size, status.st_mtime_ns))
        return digest_of(self.classes, self.labels.tolist(), repr(files).encode())


def digest_of(classes: Sequence[str], labels: list[int], images: bytes | memoryview) -> str:
    digest = hashlib.sha256(repr((classes, labels)).encode())
    digest.update(images)
    return digest.hexdigest()


def read_image(path: Path, channels: int, side: int) -> Tensor:
    """The middle square of an image file, resized bicubically: (channels, side, side) uint8.

    Raises ImageError, which names the file, for one that is missing, empty, corrupt, of more than
    8 bits a channel, or coloured where the network takes one channel.
    """
    pil, ops = library("PIL.Image"), library("PIL.ImageOps")
    try:
        with pil.open(path) as file:
            image = ops.exif_transpose(file)  # cameras store turned photos
            image.load()
    except (OSError, SyntaxError, ValueError, pil.DecompressionBombError) as error:
        raise ImageError(f"{path}: {reason(path, error)}") from error
    if image.mode.startswith(("I", "F")):
        raise ImageError(f"{path}: has pixels of mode {image.mode}, wanted 8 bits a channel")
    image = image.convert("RGB")
    if channels == 1:
        red, green, blue = image.split()
        if red.tobytes() != green.tobytes() or red.tobytes() != blue.tobytes():
            raise ImageError(f"{path}: is in colour, and the network takes one channel, grey")
        image = red
    image = ops.fit(image, (side, side), pil.Resampling.BICUBIC)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(side, side, channels).permute(2, 0, 1).contiguous()


def reason(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if path.is_file() and path.stat().st_size == 0:
        return "the file is empty"
    if type(error).__name__ == "UnidentifiedImageError":
        return "is no image, or of a kind that Pillow does not read"
    return f"cannot be read as an image: {error}"
