"""Checks of the public functions; the shapes are checked where they are used, in csrc/ops."""

from torch import SymInt, Tensor


def check_tensors(op: str, **arguments: object) -> None:
    """Raises TypeError, as torch.nn.functional does, for an argument that is not a tensor."""
    for name, value in arguments.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{op}(): argument '{name}' must be Tensor, not {type(value).__name__}")


def pair(op: str, name: str, value: object) -> tuple[int, int]:
    """An int as a pair of it, a pair as it is, as torch.nn.functional takes stride and dilation."""
    if type(value) is int:
        return value, value
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    for element in values:
        if not isinstance(element, int | SymInt) or isinstance(element, bool):
            raise TypeError(
                f"{op}(): argument '{name}' must be int or a pair of ints, "
                f"not {type(value).__name__} {value!r}"
            )
    if len(values) == 1:
        return values[0], values[0]
    if len(values) != 2:
        raise RuntimeError(f"{op}: expected {name} to be an int or a pair of ints, got {value!r}")
    return values
