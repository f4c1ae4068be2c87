"""The three forms of transfer learning on real images, by how many there are, swapped and not."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from fastconv.machine import cores
from fastconv.recipes import Split, images, load_split, recipe, train
from fastconv.recipes.sources import Shape

NETWORK = "efficientnet_lite0"
FORMS = ("features", "frozen", "all")
STEPS = 200  # about, of the forms that train convolutions; 2 to 20 epochs
MOST_TESTED = 500


def some(data: str, each: int, size: int) -> Split:
    """The first images of every class, and at most MOST_TESTED held out, evenly chosen."""
    split = load_split(data, Shape(3, images.padded(size)))
    labels = split.train.labels
    chosen = [(labels == label).nonzero()[:each, 0] for label in range(len(split.train.classes))]
    count = len(split.test.labels)
    tested = torch.arange(0, count, max(1, count // MOST_TESTED))
    return Split(split.train.subset(torch.cat(chosen)), split.test.subset(tested))


def transfer(data: str, each: int, size: int, forms: Sequence[str]) -> list[dict[str, Any]]:
    """A row a form: accuracy and seconds with our layers and with torch's, same seed."""
    split = some(data, each, size)
    count = len(split.train.labels)
    few = Split(*(part.subset(torch.arange(8)) for part in split))
    rows = []
    for form in forms:
        row: dict[str, Any] = {"data": data, "images a class": each, "form": form, "size": size}
        epochs = None if form == "features" else min(20, max(2, STEPS * 16 // count))
        for name, swapped in (("fastconv", True), ("torch", False)):
            settings = recipe(NETWORK, data, form, size=size, epochs=epochs, swapped=swapped)
            with TemporaryDirectory() as folder:  # the first call loads libraries
                train(replace(settings, epochs=1), Path(folder), data=few, workers=0)
            with TemporaryDirectory() as folder:
                began = time.perf_counter()
                done = train(settings, Path(folder), data=split, workers=cores() - 1)
                seconds = time.perf_counter() - began
            row["epochs"] = settings.epochs
            row[name] = {
                "accuracy": done.history[-1].accuracy,
                "loss": done.history[-1].loss,
                "training_seconds": sum(epoch.seconds for epoch in done.history),
                "seconds": seconds,
            }
        # Features are computed before the first epoch of their head.
        part = "seconds" if form == "features" else "training_seconds"
        row["speed-up"] = row["torch"][part] / row["fastconv"][part]
        rows.append(row)
    return rows
