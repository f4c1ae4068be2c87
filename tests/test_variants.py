"""Every row of csrc/kernels/*.def is run by a call in the table below."""

import itertools
from functools import partial

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


def depthwise(kernel, stride, layout):
    """Forward and backward pass."""
    x = layout(torch.randn(1, 2, 9, 9)).requires_grad_()
    w = torch.randn(2, 1, kernel, kernel, requires_grad=True)
    ops.depthwise_conv2d(x, w, stride=stride).sum().backward()


def depthwise_calls():
    for layout, name in ((channels_last, "nhwc"), (contiguous, "nchw")):
        for k, s in itertools.product((3, 5, 7), (1, 2)):
            yield f"{name}_k{k}s{s}", partial(depthwise, k, s, layout)
        yield f"{name}_any", partial(depthwise, 4, 1, layout)
        yield f"backward_input_{name}", partial(depthwise, 3, 2, layout)
        yield f"backward_weight_{name}_k357", partial(depthwise, 3, 1, layout)
        yield f"backward_weight_{name}_any", partial(depthwise, 4, 1, layout)


CALLS = {
    "activation_backward.elementwise": lambda: gradient(ops.residual_add, (5,), (5,)),
    "residual_add.same_size": lambda: add((1, 4, 4, 4)),
    "residual_add.shortcut_nhwc": lambda: add((1, 2, 8, 8), channels_last),
    "residual_add.shortcut_nchw": lambda: add((1, 2, 8, 8)),
    **{f"depthwise_conv2d.{name}": call for name, call in depthwise_calls()},
}


def test_the_table_holds_every_variant():
    rows = {f"{op}.{name}" for op, name, _, _ in fastconv._C.variants()}
    assert rows - CALLS.keys() == set(), "variants without a call here"
    assert CALLS.keys() - rows == set(), "calls for variants that are gone"


@pytest.mark.parametrize("variant", CALLS)
def test_variant_is_reached(variant):
    with reaches(variant):
        CALLS[variant]()
