"""Each augmentation of a real photograph, and of a digit, in one picture."""

from pathlib import Path

import torch
from torch import nn

from fastconv.data import photos
from fastconv.recipes.augment import KINDS, Wanted, augmentation
from fastconv.recipes.images import TensorImages, read_image
from fastconv.recipes.plots import contact_sheet, write
from fastconv.recipes.preprocess import as_floats, colours, crop

SIDE, SIZE = 256, 224
COLUMNS = 8
PHOTO = 16


def sheet(path: Path) -> None:
    """The photograph as it is, then eight random outcomes of each augmentation by itself."""
    torch.manual_seed(0)
    pixels = torch.stack([read_image(photo.path, 3, SIDE) for photo in photos()])
    seen = colours(TensorImages(("photo",), torch.zeros(len(pixels), dtype=torch.int64), pixels))
    wanted = Wanted(SIZE, SIDE, 3, seen.covariance)
    image = as_floats(pixels[PHOTO : PHOTO + 1])
    copies = image.expand(COLUMNS, -1, -1, -1)

    def shown(augment: nn.Module) -> torch.Tensor:
        return crop(augment(copies), SIZE, 1 / 2, 1 / 2)

    rows = {"as it is": crop(image, SIZE, 1 / 2, 1 / 2)}
    rows |= {name: shown(augmentation([name], wanted)) for name in KINDS}
    rows["all of them"] = shown(augmentation(list(KINDS), wanted))
    write(contact_sheet(rows), path)
