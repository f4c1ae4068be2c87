"""The kernels of pointwise_conv2d against its reference."""

import pytest
import torch

from fastconv import ops
from fastconv.triton_kernels import KERNELS
from fastconv.triton_kernels import pointwise_conv2d as file
from fastconv.triton_kernels.pointwise_conv2d_boxes import descriptor_kernel
from tests.helpers import ACTIVATIONS, channels_last, contiguous, expanded, sliced
from tests.triton.helpers import DTYPES, LAYOUTS, assert_agrees
from tests.triton.helpers import call as run


def call(shape, outputs, dtype=torch.float32, layout=contiguous, residual=True, stride=(1, 1)):
    """The tensors of a call: input, weight, bias, residual."""
    batch, channels, height, width = shape
    x = layout(torch.randn(shape)).to(dtype)
    w = torch.randn(outputs, channels, 1, 1).to(dtype)
    size = (batch, outputs, -(-height // stride[0]), -(-width // stride[1]))
    r = layout(torch.randn(size)).to(dtype) if residual else None
    return x, w, torch.randn(outputs).to(dtype), r, stride


def agree(*arguments, activation=None):
    channels = arguments[0].shape[1]
    assert_agrees("pointwise_conv2d", *arguments, activation, terms=channels + 2, scale=16)


# Channels, outputs: a panel, several tiles, sizes that are no multiple of anything, one.
SHAPES = [(24, 144), (40, 24), (130, 33), (144, 136), (3, 1), (1, 130)]


@pytest.mark.parametrize(("channels", "outputs"), SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_values(channels, outputs, layout, dtype):
    agree(*call((2, channels, 5, 7), outputs, dtype, layout), activation="relu6")


@pytest.mark.parametrize("stride", [(2, 2), (1, 3), (9, 2)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_stride_picks_pixels(layout, stride):
    agree(*call((2, 24, 7, 9), 72, layout=layout, stride=stride))
    agree(*call((2, 160, 7, 9), 16, torch.bfloat16, layout, stride=stride))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation):
    for layout in LAYOUTS:
        x, w, _, _, stride = call((1, 32, 4, 4), 24, layout=layout)
        agree(x, w, None, None, stride, activation=activation)


@pytest.mark.parametrize("layout", [sliced, expanded])
def test_other_strides_are_made_dense(layout):
    agree(*call((2, 24, 5, 7), 16, layout=layout))


@pytest.mark.parametrize("channels", [24, 192])
@pytest.mark.parametrize("outputs", [96, 1024])
def test_packed_weights_are_read_as_they_are(channels, outputs):
    x, w, *rest = call((1, channels, 4, 4), outputs, layout=channels_last)
    packed = ops.pack_pointwise_weight(w)
    assert packed.stride() != w.stride()
    agree(x, packed, *rest)


def test_nan_and_infinity_stay_in_their_pixels():
    x, w, b, r, stride = call((1, 32, 4, 4), 24, layout=channels_last)
    x[0, 3, 1, 1], x[0, 3, 3, 3] = float("nan"), float("inf")
    agree(x, w, b, r, stride, activation="relu")


def test_nothing_in():
    agree(*call((0, 8, 4, 4), 16))
    assert run("pointwise_conv2d", *call((2, 8, 0, 4), 16)).shape == (2, 16, 0, 4)
    x, w, b, r, stride = call((2, 0, 4, 4), 16)
    assert torch.equal(run("pointwise_conv2d", x, w, b, r, stride), b[:, None, None] + r)


def test_bad_input():
    kernel = KERNELS["pointwise_conv2d"]
    x, w, b, r, stride = call((1, 8, 4, 4), 16)
    with pytest.raises(RuntimeError, match="weight of shape"):
        kernel(x[:, :7], w, b, r, stride)
    with pytest.raises(RuntimeError, match="residual of shape"):
        kernel(x, w, b, r[:, :7], stride)
    with pytest.raises(RuntimeError, match="bias of the device and dtype"):
        kernel(x, w, b.half(), r, stride)
    with pytest.raises(RuntimeError, match="got 'tanh'"):
        kernel(x, w, b, r, stride, "tanh")


def kernels_of(x, outputs, architecture=90, **options):
    w = torch.empty(outputs, x.shape[1], 1, 1, dtype=x.dtype)
    arguments = (x, w, None, None, (1, 1), None)
    launches = KERNELS["pointwise_conv2d"].plan(*arguments, architecture=architecture)
    return [launch.kernel for launch in launches]


def test_each_shape_has_its_kernel():
    def nhwc(channels):
        return channels_last(torch.empty(8, channels, 56, 56, dtype=torch.bfloat16, device="meta"))

    assert kernels_of(nhwc(24), 144) == [file.panel_kernel]
    assert kernels_of(nhwc(24), 64) == [file.tile_kernel]
    assert kernels_of(nhwc(384), 64) == [descriptor_kernel]
    assert kernels_of(nhwc(384), 64, architecture=80) == [file.tile_kernel]
    assert kernels_of(nhwc(381), 64) == [file.tile_kernel]
    assert kernels_of(contiguous(nhwc(384)), 64) == [file.tile_kernel]


def test_tf32_only_where_torch_allows_it(monkeypatch):
    x = torch.empty(1, 32, 4, 4, device="meta")
    arguments = (x, torch.empty(16, 32, 1, 1), None, None, (1, 1), None)

    def precision():
        return KERNELS["pointwise_conv2d"].plan(*arguments)[0].options["PRECISION"]

    assert precision() == "ieee"
    monkeypatch.setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32")
    assert precision() == "tf32"
