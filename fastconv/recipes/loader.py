"""Batches made by other processes while the network trains, and the same whatever their number."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fastconv.recipes.images import ImageError, Images
from fastconv.recipes.preprocess import Preprocessing, as_floats, crop, indices

# Images (n, C, size, size) float32 channels_last, or bytes (n, C, side, side); labels (n,) int64.
Batch = tuple[Tensor, Tensor]


def mixed(*numbers: int) -> int:
    """One seed of several numbers."""
    return random.Random(repr(numbers)).getrandbits(63)


@dataclass
class Reader:
    """Reads and augments one batch; its random numbers come from the batch, not from the process.

    Without preprocessing the images stay the bytes they are read as, margin and all.
    What goes wrong is returned: a worker would raise it with its own traceback in the message.
    """

    images: Images
    preprocessing: Preprocessing | None = None
    augment: nn.Module | None = None
    seed: int = 0

    def __len__(self) -> int:
        return len(self.images.labels)

    def __getitems__(self, places: Sequence[int]) -> Batch | ImageError:
        try:
            found = self.images.read(places)
        except ImageError as error:
            return error
        labels = self.images.labels[torch.as_tensor(places)]
        if self.preprocessing is None:
            return found, labels
        size = self.preprocessing.size
        if self.augment is not None:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(mixed(self.seed, *places))
                augmented = self.augment(as_floats(found))
            output = self.preprocessing.normalise(crop(augmented, size, 1 / 2, 1 / 2))
        else:
            output = self.preprocessing.crop(found)
        return output.contiguous(memory_format=torch.channels_last), labels


def as_is(batch: Any) -> Any:
    """The reader has made a batch already; a lambda could not be sent to a worker."""
    return batch


def batches(reader: Reader, order: Sequence[Sequence[int]], workers: int = 0) -> Iterator[Batch]:
    """The batches of these places in this order, made in `workers` processes beside this one.

    Raises ImageError, naming the file.
    """
    loader: DataLoader[Any] = DataLoader(
        reader,  # type: ignore[arg-type]
        batch_sampler=order,  # type: ignore[arg-type]
        collate_fn=as_is,
        num_workers=workers,
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, ImageError):
            raise batch
        yield batch


def shuffled(count: int, batch: int, seed: int) -> list[list[int]]:
    """All places in random order, in batches; a last batch of one, which no batch norm can take in
    training, goes to the batch before."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    parts = [order[start : start + batch] for start in range(0, count, batch)]
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [parts[-2] + parts[-1]]
    return parts


def in_order(reader: Reader, batch: int, workers: int = 0) -> Iterator[Batch]:
    """Every image once, from first to last."""
    yield from batches(reader, indices(len(reader), batch), workers)
