"""Checks of the public functions; the shapes are checked where they are used, in csrc/ops."""

from torch import Tensor


def check_tensors(op: str, **arguments: object) -> None:
    """Raises TypeError, as torch.nn.functional does, for an argument that is not a tensor."""
    for name, value in arguments.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{op}(): argument '{name}' must be Tensor, not {type(value).__name__}")


def check_numbers(op: str, **arguments: object) -> None:
    """Raises TypeError, as torch.nn.functional does, for an argument that is not a number."""
    for name, value in arguments.items():
        if not isinstance(value, int | float):
            raise TypeError(f"{op}(): argument '{name}' must be float, not {type(value).__name__}")
