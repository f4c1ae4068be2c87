"""What the tests of the Triton kernels share: the device, and the comparison with the oracle."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fastconv import reference
from fastconv.triton_kernels import KERNELS
from tests.helpers import assert_close, channels_last, contiguous
from tests.triton.conftest import INTERPRETED

DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
LAYOUTS = [contiguous, channels_last]


def call(name: str, *arguments: Any) -> Any:
    """The named kernel on copies of the arguments on the device, its result on the CPU."""
    on_device = (a.to(DEVICE) if isinstance(a, Tensor) else a for a in arguments)
    return tree_map(lambda t: t.cpu(), KERNELS[name](*on_device))


def expect(name: str, *arguments: Any) -> Any:
    """The reference of the op in float64."""
    doubles = (a.double() if isinstance(a, Tensor) else a for a in arguments)
    return getattr(reference, name)(*doubles)


def assert_agrees(name: str, *arguments: Any, terms: int = 1, scale: float = 1.0) -> None:
    """The kernel against the reference: values, and the strides that the raw op promises."""
    actual, expected = call(name, *arguments), expect(name, *arguments)
    on_meta = (a.to("meta") if isinstance(a, Tensor) else a for a in arguments)
    promised = getattr(torch.ops.fastconv, name)(*on_meta)
    for a, e, p in zip(*map(as_tuple, (actual, expected, promised)), strict=True):
        assert (a.dtype, a.stride()) == (p.dtype, p.stride())
        assert_close(a, e, terms, scale)


def as_tuple(value: Any) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)
