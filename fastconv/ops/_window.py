"""stride, padding and dilation in the forms torch takes, brought to those of the raw ops."""

from collections.abc import Sequence

import torch

IntPair = int | Sequence[int]
INTEGERS = (int, torch.SymInt)


def pair(op: str, name: str, value: IntPair) -> tuple[int, int]:
    """(rows, columns) from an integer, or a sequence of one or two."""
    if isinstance(value, INTEGERS):
        return value, value
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(
            f"{op}(): argument '{name}' must be int or tuple of ints, not {type(value).__name__}"
        )
    if len(value) == 1:
        value = (value[0], value[0])
    if len(value) != 2:
        raise RuntimeError(f"{op}: expected {name} of one or two integers, got {tuple(value)}")
    check_integers(op, name, value)
    return value[0], value[1]


def check_integers(op: str, name: str, values: Sequence[int]) -> None:
    for value in values:
        if not isinstance(value, INTEGERS):
            raise TypeError(
                f"{op}(): argument '{name}' must be int or tuple of ints, but found element of "
                f"type {type(value).__name__}"
            )


def edges(
    op: str,
    padding: str | IntPair,
    kernel: Sequence[int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) from an integer, a pair, 'same', 'valid', or all four."""
    if isinstance(padding, str):
        if padding == "valid":
            return 0, 0, 0, 0
        if padding != "same":
            raise RuntimeError(f"{op}: expected padding 'same' or 'valid', got {padding!r}")
        if stride != (1, 1):
            raise RuntimeError(f"{op}: padding='same' wants stride 1, got {stride}")
        if len(kernel) != 2:
            raise RuntimeError(f"{op}: expected weight with 4 dimensions, got {len(kernel) + 2}")
        # An odd total leaves the extra pixel at the bottom and right, as in torch.
        rows, columns = (d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
        return rows // 2, columns // 2, rows - rows // 2, columns - columns // 2
    if isinstance(padding, (tuple, list)) and len(padding) == 4:
        check_integers(op, "padding", padding)
        return padding[0], padding[1], padding[2], padding[3]
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
