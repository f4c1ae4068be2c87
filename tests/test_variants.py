"""Every row of csrc/kernels/*.def is run by a call in the table below."""

import re
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


def normalise(layout):
    gradient(lambda x: ops.local_response_norm(x, 5), (1, 9, 4, 4), layout=layout)


def pool(layout):
    gradient(ops.global_avg_pool2d, (1, 9, 4, 4), layout=layout)


def pool_windows(layout):
    ops.max_pool2d(layout(torch.randn(1, 9, 4, 4)), 2)


def batch_norm(layout):
    gradient(lambda x: ops.batch_norm(x, None, None, training=True), (2, 3, 4, 4), layout=layout)


def depthwise(layout, kernel, stride=1, channels=4):
    def convolve(x, weight):
        return ops.depthwise_conv2d(x, weight, stride=stride, padding=kernel // 2)

    gradient(convolve, (1, channels, 9, 9), (channels, 1, kernel, kernel), layout=layout)


def pointwise(layout, pack=lambda weight: weight):
    x, weight = layout(torch.randn(1, 4, 5, 5)), torch.randn(6, 4, 1, 1, requires_grad=True)
    ops.pointwise_conv2d(x, pack(weight)).sum().backward()


def pointwise_bfloat16(pack):
    x, weight = torch.randn(1, 4, 5, 5).bfloat16(), torch.randn(6, 4, 1, 1).bfloat16()
    ops.pointwise_conv2d(channels_last(x), pack(weight))


def block(expands, size, layout=channels_last, squeeze=None):
    x, filters = layout(torch.randn(1, 8, size, size)), torch.randn(8, 1, 3, 3)
    matrix = torch.randn(8, 8, 1, 1)
    if squeeze:
        squeeze = ops.SqueezeExcitation(matrix, None, matrix, None)
    if expands:
        weights = (matrix, None, filters, None, matrix, None)
        ops.inverted_residual(x, *weights, padding=1, squeeze=squeeze)
    else:
        ops.separable_conv2d(x, filters, None, matrix, None, padding=1, squeeze=squeeze)


def dense(width, pack=ops.pack_dense_weight):
    x = channels_last(torch.randn(1, 8, 8, width))
    ops.dense_conv2d(x, pack(torch.randn(32, 8, 3, 3)), padding=1)


def stem(layout, pack=ops.pack_stem_weight):
    ops.stem_conv2d(layout(torch.randn(1, 3, 8, 8)), pack(torch.randn(4, 3, 3, 3)))


CALLS = {
    "activation_backward.elementwise": lambda: gradient(ops.residual_add, (5,), (5,)),
    "residual_add.same_size": lambda: add((1, 4, 4, 4)),
    "residual_add.shortcut_nhwc": lambda: add((1, 2, 8, 8), channels_last),
    "residual_add.shortcut_nchw": lambda: add((1, 2, 8, 8)),
    "pointwise_conv2d.nchw": partial(pointwise, contiguous),
    "pointwise_conv2d.nhwc_packing": partial(pointwise, channels_last),
    "pointwise_conv2d.nhwc_dots": lambda: ops.pointwise_conv2d(
        torch.randn(3, 4, 1, 1), torch.randn(6, 4, 1, 1)
    ),
    "pointwise_conv2d.nhwc": partial(pointwise, channels_last, ops.pack_pointwise_weight),
    "pointwise_conv2d.nhwc_pairs_packing": partial(pointwise_bfloat16, lambda weight: weight),
    "pointwise_conv2d.nhwc_pairs": partial(pointwise_bfloat16, ops.pack_pointwise_pairs),
    "dense_conv2d.rows": partial(dense, 9),
    "dense_conv2d.taps": partial(dense, 7),
    "dense_conv2d.winograd": partial(dense, 9, ops.pack_winograd_weight),
    "dense_conv2d.packing": partial(dense, 9, contiguous),
    "stem_conv2d.nchw": partial(stem, contiguous),
    "stem_conv2d.nhwc": partial(stem, channels_last),
    "stem_conv2d.packing": partial(stem, contiguous, contiguous),
}
for op, expands in {"inverted_residual": True, "separable_conv2d": False}.items():
    CALLS |= {
        f"{op}.rows": partial(block, expands, 15),
        f"{op}.channels": partial(block, expands, 7),
        f"{op}.squeeze": partial(block, expands, 7, squeeze=True),
        f"{op}.parts": partial(block, expands, 7, contiguous),
    }
CALLS |= {
    "depthwise_conv2d.nchw_planes": partial(depthwise, contiguous, 4, channels=9),
    "depthwise_conv2d.nhwc_strips": partial(depthwise, channels_last, 9),
    "depthwise_conv2d.backward_weight_nhwc_strips": partial(depthwise, channels_last, 9),
    "depthwise_conv2d.backward_input_nchw_planes": partial(depthwise, contiguous, 4, 3, 9),
    "depthwise_conv2d.backward_weight_nchw_planes": partial(depthwise, contiguous, 4, 3, 9),
    "depthwise_conv2d.backward_input_nhwc_k357s2": partial(depthwise, channels_last, 5, 2),
}
for name, layout in {"nhwc": channels_last, "nchw": contiguous}.items():
    CALLS |= {
        f"global_avg_pool2d.{name}": partial(pool, layout),
        f"global_avg_pool2d.backward_{name}": partial(pool, layout),
        f"max_pool2d.{name}": partial(pool_windows, layout),
        f"batch_norm.{name}": partial(batch_norm, layout),
        f"batch_norm_backward.{name}": partial(batch_norm, layout),
        f"local_response_norm.{name}": partial(normalise, layout),
        f"local_response_norm_backward.{name}": partial(normalise, layout),
        f"pointwise_conv2d.weight_gradient_{name}": partial(pointwise, layout),
        f"depthwise_conv2d.{name}_any": partial(depthwise, layout, kernel=4, stride=2),
        f"depthwise_conv2d.backward_input_{name}": partial(depthwise, layout, kernel=4, stride=2),
        f"depthwise_conv2d.backward_weight_{name}_k357": partial(depthwise, layout, kernel=3),
        f"depthwise_conv2d.backward_weight_{name}_any": partial(depthwise, layout, 4, 2),
    }
    for kernel in (3, 5, 7):
        for stride in (1, 2):
            tile = f"depthwise_conv2d.{name}_k{kernel}s{stride}"
            CALLS[tile] = partial(depthwise, layout, kernel, stride)


def test_the_table_holds_every_variant():
    rows = {f"{op}.{name}" for op, name, _, _ in fastconv._C.variants()}
    assert rows - CALLS.keys() == set(), "variants without a call here"
    assert CALLS.keys() - rows == set(), "calls for variants that are gone"


@pytest.mark.parametrize("variant", CALLS)
def test_variant_is_reached(variant):
    if fastconv._C.isa() == "scalar" and re.search(
        r"_k\d|planes|\.rows|\.channels|\.squeeze", variant
    ):
        pytest.skip("register tiles need vectors")
    with reaches(variant):
        CALLS[variant]()
