"""Checks of the public functions; the shapes are checked where they are used, in csrc/ops."""

from numbers import Real

from torch import Tensor


def check_tensors(op: str, **arguments: object) -> None:
    """Raises TypeError, as torch.nn.functional does, for an argument that is not a tensor."""
    for name, value in arguments.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{op}(): argument '{name}' must be Tensor, not {type(value).__name__}")


def check_numbers(op: str, **arguments: object) -> None:
    """Raises TypeError, as torch.nn.functional does, for an argument that is not a number."""
    for name, value in arguments.items():
        if not isinstance(value, Real):
            raise TypeError(f"{op}(): argument '{name}' must be float, not {type(value).__name__}")


def check_like_input(op: str, input: Tensor, **others: Tensor | None) -> None:
    """Raises RuntimeError for a tensor of another device or dtype; for the fake kernels."""
    for name, other in others.items():
        if other is not None and (other.device, other.dtype) != (input.device, input.dtype):
            raise RuntimeError(
                f"{op}: expected {name} of the device and dtype of input ({input.device}, "
                f"{input.dtype}), got {other.device}, {other.dtype}"
            )
