"""What is profiled: a network of fastconv.models, of a module, or of a script."""

import runpy
import sys
import traceback
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from fastconv.peers.model import build_model, input_size, settle_batch_norms

SCRIPT_NAME = "__profile__"  # so that what stands under `if __name__ == "__main__"` does not run


class SubjectError(RuntimeError):
    """What was named cannot be profiled; the message says why in a sentence."""


class Subject(NamedTuple):
    name: str
    model: nn.Module  # in eval mode
    inputs: tuple[Any, ...]  # positional arguments
    batch: int | None  # None where the inputs are those of a script
    dtype: str | None  # None where it is as it came


def load(
    name: str,
    batch: int | None = None,
    dtype: str | None = None,
    *,
    device: str = "cpu",
    untouched: bool = False,
) -> Subject:
    """The network that `name` names, with random images, or with the inputs of a script.

    Args:
        name: of fastconv.models, module:function, or the path of a Python file that defines
            `model`, an nn.Module, and `inputs`, a tensor or the tuple of its positional arguments.
        batch: images, 1 if not given; a script's inputs have their own.
        dtype: to which model and floating-point inputs are cast; None leaves them.
        device: to which model and inputs are brought.
        untouched: leaves an untrained network without statistics for its batch norms, so that
            nothing has run yet.

    Raises:
        ValueError: there is no such network, or batch is given for a script.
        SubjectError: the script fails, or does not define what it must; or the network does not
            run on images of its input_size.
    """
    if name.endswith(".py"):
        if batch is not None:
            raise ValueError(f"{name} defines its own inputs, so --batch has nothing to choose")
        model, inputs = run_script(Path(name))
    else:
        batch = batch or 1
        torch.manual_seed(0)
        model = build_model(name)
        if not untouched:
            try:
                settle_batch_norms(model, torch.randn(4, *input_size(model)))
            except RuntimeError as error:
                raise SubjectError(
                    f"{name} does not run on its images: {describe(error)}"
                ) from error
        inputs = (torch.randn(batch, *input_size(model)),)
    model = model.eval()
    if dtype is not None:
        kind = getattr(torch, dtype)
        model = model.to(kind)
        inputs = pytree.tree_map(lambda value: cast(value, kind), inputs)
    if device != "cpu":
        model = model.to(device)
        inputs = pytree.tree_map_only(Tensor, lambda value: value.to(device), inputs)
    return Subject(name, model, inputs, batch, dtype)


def cast(value: Any, dtype: torch.dtype) -> Any:
    floats = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(dtype) if floats else value


def run_script(path: Path) -> tuple[nn.Module, tuple[Any, ...]]:
    """The `model` and the `inputs` that a Python file defines."""
    if not path.is_file():
        raise SubjectError(f"there is no file {path}")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # last: a file beside the script hides no package of ours
    try:
        defined = runpy.run_path(str(path), run_name=SCRIPT_NAME)
    except (Exception, SystemExit) as error:
        raise SubjectError(f"{path} fails{place_of(error, path)}: {describe(error)}") from error
    model, inputs = defined.get("model"), defined.get("inputs")
    if not isinstance(model, nn.Module):
        raise SubjectError(f"{path} must define `model`, an nn.Module, got {kind_of(model)}")
    if isinstance(inputs, Tensor):
        inputs = (inputs,)
    if not isinstance(inputs, tuple):
        raise SubjectError(
            f"{path} must define `inputs`, a tensor or a tuple of arguments, got {kind_of(inputs)}"
        )
    return model, inputs


def kind_of(value: object) -> str:
    return "nothing of that name" if value is None else type(value).__name__


def place_of(error: BaseException, path: Path) -> str:
    """The line of the file that failed, as ' in line 3'."""
    if isinstance(error, SyntaxError):
        return f" in line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return f" in line {lines[-1]}" if lines else ""


def describe(error: BaseException) -> str:
    """The kind of an error and the first line of what it says."""
    first = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
