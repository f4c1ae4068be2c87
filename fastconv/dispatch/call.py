"""What is asked of an op, in values that compare and hash: shapes in place of tensors."""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastconv.layout import memory_format_of


class Call(NamedTuple):
    """A call of the raw op `op`; with the arguments by place."""

    op: str
    device: str  # the type: cpu, cuda, meta
    dtype: torch.dtype
    layout: str  # of the first argument: nchw or nhwc
    arguments: tuple[Any, ...]  # a tensor's shape, a list as a tuple, all else as it is
    forward_mode: bool = False  # a dual level of torch.autograd.forward_ad is open

    @classmethod
    def of(cls, op: str, arguments: Sequence[Any], device: str | None = None) -> "Call":
        """The call of op on these arguments, as if they were on device where it is given."""
        input = arguments[0]
        return cls(
            op,
            device or input.device.type,
            input.dtype,
            "nhwc" if memory_format_of(input) is torch.channels_last else "nchw",
            tuple(map(_plain, arguments)),
            forward_ad._current_level >= 0,
        )

    def argument(self, name: str) -> Any:
        """The argument of that name; None where the call leaves it to its default."""
        place = argument_names(self.op).index(name)
        return self.arguments[place] if place < len(self.arguments) else None


@cache
def argument_names(op: str) -> tuple[str, ...]:
    """Of the raw op, in the order of its schema."""
    return tuple(a.name for a in getattr(torch.ops.fastconv, op).default._schema.arguments)


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(map(known_size, value.shape))
    if isinstance(value, (list, tuple)):
        return tuple(map(known_size, value))
    return value


def known_size(value: Any) -> Any:
    """An open size stands for the size it was compiled for: no choice may close it."""
    return value.node.hint if isinstance(value, torch.SymInt) else value
