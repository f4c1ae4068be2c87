"""The network that all rivals run: found by name, filled with the same weights in every process."""

import importlib
import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import fastconv.models

DEFAULT_INPUT_SIZE = (3, 224, 224)


def build_model(name: str) -> nn.Module:
    """The network `name` of fastconv.models, or a network of the user's own: `module:function`.

    A third part, as in `module:function:text`, is the function's argument.
    Raises ValueError, in a sentence for the user, where the name leads to no nn.Module.
    """
    if ":" not in name:
        return fastconv.models.build(name)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    module, function, *argument = name.split(":", 2)
    try:
        builder = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no {name!r}: {error}") from error
    model = builder(*argument)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name!r} returns {type(model).__name__}, wanted a torch.nn.Module")
    return model


def input_size(model: nn.Module) -> tuple[int, ...]:
    """(C, H, W) as the model's attribute `input_size` says, else 3 x 224 x 224."""
    return tuple(getattr(model, "input_size", DEFAULT_INPUT_SIZE))


def settle_batch_norms(model: nn.Module, images: Tensor) -> None:
    """Gives untrained batch norms the statistics of these images.

    Without this an untrained deep network answers the same whatever it is shown, so that comparing
    outputs would prove nothing.
    """
    model.eval()
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the plain average
        norm.train()
    with torch.no_grad():
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def save_job(folder: Path, model: nn.Module, image: Tensor) -> None:
    torch.save(model.state_dict(), folder / "weights.pt")
    torch.save(image, folder / "image.pt")


def load_job(folder: Path, name: str) -> tuple[nn.Module, Tensor]:
    model = build_model(name)
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    return model.eval(), torch.load(folder / "image.pt", weights_only=True)
