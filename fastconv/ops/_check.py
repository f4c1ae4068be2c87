"""Checks of the public functions; the shapes are checked where they are used, in csrc/ops."""

from collections.abc import Container
from numbers import Real

from torch import SymBool, SymFloat, SymInt, Tensor

from fastconv.reference import narrowed


def check_tensors(op: str, optional: Container[str] = (), /, **arguments: object) -> None:
    """Raises TypeError, as torch.nn.functional does, for an argument that is not a tensor.

    Those named in optional may be None.
    """
    for name, value in arguments.items():
        if not (value is None and name in optional) and not isinstance(value, Tensor):
            raise TypeError(f"{op}(): argument '{name}' must be Tensor, not {type(value).__name__}")


def check_numbers(op: str, **arguments: object) -> None:
    """Raises TypeError, as torch.nn.functional does, for an argument that is not a number."""
    for name, value in arguments.items():
        if type(value) is not float and not isinstance(value, (Real, SymInt, SymFloat)):
            raise TypeError(f"{op}(): argument '{name}' must be float, not {type(value).__name__}")


def check_bools(op: str, **arguments: object) -> None:
    """Raises TypeError, as torch.nn.functional does, for an argument that is not a bool."""
    for name, value in arguments.items():
        if type(value) is not bool and not isinstance(value, SymBool):
            raise TypeError(f"{op}(): argument '{name}' must be bool, not {type(value).__name__}")


def check_bias(op: str, input: Tensor, bias: Tensor | None) -> None:
    """As check_like_input, but float32 may stand beside bfloat16."""
    check_like_input(op, input, bias=narrowed(bias, input))


def check_bias_shape(op: str, bias: Tensor | None, out_channels: int) -> None:
    if bias is not None and bias.shape != (out_channels,):
        raise RuntimeError(
            f"{op}: expected bias of shape ({out_channels}), got {tuple(bias.shape)}"
        )


def check_weight(op: str, weight: Tensor, wanted: str, window: tuple[int, ...] = ()) -> None:
    """For what packs a weight: TypeError, or RuntimeError unless it has 4 dimensions, filters, and
    the window, if one is given; wanted says so to the reader."""
    check_tensors(op, weight=weight)
    fits = weight.dim() == 4 and weight.shape[0] > 0
    if not fits or (window and weight.shape[2:] != window):
        raise RuntimeError(f"{op}: expected weight of shape {wanted}, got {tuple(weight.shape)}")


def check_windows(op: str, input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raises RuntimeError unless these are windows over all channels of input, and their bias."""
    if input.dim() != 4 or weight.dim() != 4 or weight.shape[1] != input.shape[1]:
        raise RuntimeError(
            f"{op}: expected weight of shape (out_channels, in_channels, kh, kw), got "
            f"{tuple(weight.shape)} for input {tuple(input.shape)}"
        )
    if 0 in weight.shape:
        raise RuntimeError(f"{op}: expected a weight with taps, got {tuple(weight.shape)}")
    check_bias_shape(op, bias, weight.shape[0])


def check_like_input(op: str, input: Tensor, **others: Tensor | None) -> None:
    """Raises RuntimeError for a tensor of another device or dtype; for the fake kernels."""
    for name, other in others.items():
        if other is not None and (other.device, other.dtype) != (input.device, input.dtype):
            raise RuntimeError(
                f"{op}: expected {name} of the device and dtype of input ({input.device}, "
                f"{input.dtype}), got {other.device}, {other.dtype}"
            )
