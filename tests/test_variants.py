"""Every row of csrc/kernels/*.def is run by a call in the table below."""

import pytest
import torch

import fastconv
from fastconv import ops
from tests.helpers import channels_last, contiguous, reaches


def add(residual_shape, layout=contiguous):
    x, residual = torch.randn(1, 4, 4, 4), torch.randn(residual_shape)
    return ops.residual_add(layout(x), layout(residual))


def gradient(function, *shapes, layout=contiguous):
    tensors = [layout(torch.randn(shape)).requires_grad_() for shape in shapes]
    function(*tensors).sum().backward()


CALLS = {
    "activation_backward.elementwise": lambda: gradient(ops.residual_add, (5,), (5,)),
    "residual_add.same_size": lambda: add((1, 4, 4, 4)),
    "residual_add.shortcut_nhwc": lambda: add((1, 2, 8, 8), channels_last),
    "residual_add.shortcut_nchw": lambda: add((1, 2, 8, 8)),
}


def test_the_table_holds_every_variant():
    rows = {f"{op}.{name}" for op, name, _, _ in fastconv._C.variants()}
    assert rows - CALLS.keys() == set(), "variants without a call here"
    assert CALLS.keys() - rows == set(), "calls for variants that are gone"


@pytest.mark.parametrize("variant", CALLS)
def test_variant_is_reached(variant):
    with reaches(variant):
        CALLS[variant]()
