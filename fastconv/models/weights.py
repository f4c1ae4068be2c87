"""Published weights: read from installed pip packages, loaded whole or not at all."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fastconv.data.packages import package_files


def read_checkpoint(package: str, pattern: str) -> dict[str, Tensor]:
    """The tensors of the one checkpoint file of a package; runs no code from it (weights_only)."""
    (path,) = package_files(package, pattern)
    return torch.load(path, map_location="cpu", weights_only=True)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], *, assign: bool = False) -> None:
    """Copies weights into a model with exactly these keys and shapes.

    assign: makes the weights themselves its parameters and buffers, without a copy.
    Raises RuntimeError naming every key that is missing, unexpected or of another shape; the model
    is then unchanged, where nn.Module.load_state_dict leaves it half loaded.
    """
    wanted = model.state_dict()
    problems = [f"missing {key}" for key in wanted if key not in weights]
    problems += [f"unexpected {key}" for key in weights if key not in wanted]
    problems += [
        f"{key} has shape {tuple(weights[key].shape)}, wanted {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in weights and weights[key].shape != tensor.shape
    ]
    if problems:
        raise RuntimeError(f"the weights do not fit {type(model).__name__}: " + "; ".join(problems))
    model.load_state_dict(weights, assign=assign)
