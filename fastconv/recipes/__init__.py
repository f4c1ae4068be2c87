"""The practice around the layers: training, transfer learning, augmentation, evaluation.

An optional part on well-kept libraries: `pip install 'fastconv[recipes]'`. Nothing here is imported
by the rest of fastconv but its command line.
"""

from fastconv.recipes.checkpoint import Checkpoint, load_network
from fastconv.recipes.images import FileImages, ImageError, TensorImages
from fastconv.recipes.recipe import Recipe, recipe
from fastconv.recipes.sources import Split, load_split
from fastconv.recipes.train import train

__all__ = [
    "Checkpoint",
    "FileImages",
    "ImageError",
    "Recipe",
    "Split",
    "TensorImages",
    "load_network",
    "load_split",
    "recipe",
    "train",
]
