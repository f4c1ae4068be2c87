"""Checkpoints as safetensors: whole or not at all, read without running code from them."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastconv.files import whole
from fastconv.models import Network, load_weights
from fastconv.recipes.libraries import library
from fastconv.recipes.preprocess import Preprocessing
from fastconv.recipes.recipe import Recipe, untrained

KEY = "fastconv"  # of the metadata
MODEL, OPTIMIZER = "model.", "optimizer."


@dataclass(frozen=True)
class Epoch:
    """loss: mean over the steps, which took so many seconds; accuracy: share of the held-out images
    read right."""

    loss: float
    accuracy: float
    seconds: float


@dataclass
class Checkpoint:
    """What is known of a network beside its weights."""

    recipe: Recipe
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    history: list[Epoch] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return len(self.history) >= self.recipe.epochs


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: dict[str, Any]) -> None:
    """Writes a safetensors file beside `path` and renames it when all of it is on the disk.

    Raises OSError naming the file, which is then what it was before: on a full disk, say.
    """
    safetensors = library("safetensors.torch")
    dense = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    try:
        with whole(path) as beside:
            beside.touch()
            mode = beside.stat().st_mode  # as of any new file; the library's is 0600
            safetensors.save_file(dense, beside, metadata={KEY: json.dumps(about)})
            beside.chmod(mode)
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
    except (OSError, library("safetensors").SafetensorError) as error:
        raise OSError(f"{path} could not be written, and is as it was before: {error}") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, mapped from the file and read when used, and what was written about them.

    Raises FileNotFoundError, and ValueError naming a file that is no checkpoint or a broken one.
    """
    safetensors = library("safetensors")
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        with safetensors.safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})[KEY])
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"{path} is no checkpoint of fastconv, or a broken one: {error}"
        ) from error


def save(
    path: Path, checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Weights, optimizer and all that a later run needs. Raises OSError as write_tensors does."""
    tensors = {MODEL + name: tensor for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"{OPTIMIZER}{index}.{name}": tensor for name, tensor in state.items()}
    write_tensors(path, tensors, asdict(checkpoint))


def load(path: Path) -> tuple[Checkpoint, dict[str, Tensor]]:
    """The checkpoint and its tensors, as read_tensors gives and refuses them."""
    tensors, about = read_tensors(path)
    try:
        recipe = about["recipe"]
        preprocessing = about["preprocessing"]
        checkpoint = Checkpoint(
            Recipe(**{**recipe, "augment": tuple(recipe["augment"])}),
            tuple(about["classes"]),
            Preprocessing(**{**preprocessing, "mean": tuple(preprocessing["mean"])}),
            [Epoch(**epoch) for epoch in about["history"]],
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is a checkpoint of another version: {error}") from error
    return checkpoint, tensors


def weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the network, by its own keys."""
    return {
        name.removeprefix(MODEL): tensor
        for name, tensor in tensors.items()
        if name.startswith(MODEL)
    }


def load_network(path: Path) -> tuple[Checkpoint, Network]:
    """The trained network, in evaluation mode, its weights mapped from the file.

    A page of them is in memory only while it is used, and the system may drop it at any time: so
    many networks fit.
    Raises what read_tensors raises, and RuntimeError for weights that do not fit the network.
    """
    checkpoint, tensors = load(path)
    with torch.device("meta"):
        model = untrained(checkpoint.recipe.network, len(checkpoint.classes))
    load_weights(model, weights(tensors), assign=True)
    return checkpoint, model.eval()


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Gives the optimizer its state back, each tensor with the strides of its parameter."""
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for key, tensor in tensors.items():
        if not key.startswith(OPTIMIZER):
            continue
        index, name = key.removeprefix(OPTIMIZER).split(".")
        parameter = parameters[int(index)]
        own = torch.empty_like(parameter if tensor.dim() else tensor, dtype=tensor.dtype)
        state.setdefault(int(index), {})[name] = own.copy_(tensor)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
