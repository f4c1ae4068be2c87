"""stride, padding and dilation in the forms torch takes, brought to those of the raw ops."""

import operator
from collections.abc import Sequence
from typing import Any

import torch

from fastconv.ops._check import check_tensors

IntPair = int | Sequence[int]


def pair(op: str, name: str, value: IntPair) -> tuple[int, int]:
    """(rows, columns) from an integer, or a tuple or list of one or two."""
    if type(value) is int:  # most calls
        return value, value
    if not isinstance(value, (tuple, list)):
        value = integer(op, name, value)
        return value, value
    if len(value) not in (1, 2):
        raise RuntimeError(f"{op}: expected {name} of one or two integers, got {tuple(value)}")
    return integer(op, name, value[0]), integer(op, name, value[-1])


def integer(op: str, name: str, value: Any) -> int:
    """value as an int; as in torch any type with an index will do, but a bool will not."""
    if type(value) is int or isinstance(value, torch.SymInt):
        return value  # type: ignore[return-value]  # a SymInt serves as an int
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(
        f"{op}(): argument '{name}' must be int or tuple of ints, not {type(value).__name__}"
    )


def edges(
    op: str,
    padding: str | IntPair,
    kernel: torch.Tensor | tuple[int, ...],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) from an integer, a pair, 'same', 'valid', or all four.

    kernel has the rows and columns of the window, as its values or after the first two of its
    shape.
    """
    if type(padding) is int:  # most calls
        return padding, padding, padding, padding
    if isinstance(padding, str):
        if padding == "valid":
            return 0, 0, 0, 0
        if padding != "same":
            raise RuntimeError(f"{op}: expected padding 'same' or 'valid', got {padding!r}")
        if stride != (1, 1):
            raise RuntimeError(f"{op}: padding='same' wants stride 1, got {stride}")
        if not isinstance(kernel, tuple):
            check_tensors(op, weight=kernel)
            kernel = kernel.shape[2:]
        if len(kernel) != 2:
            raise RuntimeError(f"{op}: expected weight with 4 dimensions, got {len(kernel) + 2}")
        # An odd total leaves the extra pixel at the bottom and right, as in torch.
        rows, columns = (d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
        return rows // 2, columns // 2, rows - rows // 2, columns - columns // 2
    if isinstance(padding, (tuple, list)) and len(padding) == 4:
        top, left, bottom, right = (integer(op, "padding", side) for side in padding)
        return top, left, bottom, right
    top, left = pair(op, "padding", padding)
    return top, left, top, left


def output_size(op: str, size: int, kernel: int, stride: int, dilation: int) -> int:
    """Outputs along one axis of `size` input pixels, padding included."""
    reach = dilation * (kernel - 1) + 1
    if size < reach:
        raise RuntimeError(
            f"{op}: expected a kernel no larger than the padded input, got {reach} over {size}"
        )
    return (size - reach) // stride + 1


def output_sizes(
    op: str,
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """(rows, columns) of the output; raises RuntimeError for numbers out of range."""
    if min(stride) < 1 or min(dilation) < 1 or min(padding) < 0:
        raise RuntimeError(
            f"{op}: expected stride and dilation from 1 and padding from 0, got "
            f"{tuple(stride)}, {tuple(dilation)} and {tuple(padding)}"
        )
    padded = size[0] + padding[0] + padding[2], size[1] + padding[1] + padding[3]
    return [output_size(op, *axis) for axis in zip(padded, kernel, stride, dilation, strict=True)]
