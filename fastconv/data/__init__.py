"""Published data for demos and tests, read from installed pip packages; nothing is downloaded."""

from fastconv.data.digits import held_out, load_digits
from fastconv.data.imagenet import Photo, class_names, load_photo, load_photos, photos

__all__ = [
    "Photo",
    "class_names",
    "held_out",
    "load_digits",
    "load_photo",
    "load_photos",
    "photos",
]
