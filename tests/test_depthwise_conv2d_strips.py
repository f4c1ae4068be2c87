"""depthwise_conv2d where the kernels split: strips, blocks, many pixels, strides past 32 bits."""

import pytest
import torch

from fastconv.ops import depthwise_conv2d, pack_depthwise_weight
from tests.helpers import (
    DTYPES,
    ISAS,
    assert_close,
    assert_same_bits_on_any_threads,
    channels_last,
    contiguous,
    isa,
)
from tests.test_depthwise_conv2d import WINDOWS, double, expected, tensors


def assert_values_and_gradients(x, w, b, window, name):
    wide = double(x, w, b)
    leaves = [t.requires_grad_() for t in (x, w, b)]
    with isa(name):
        y = depthwise_conv2d(x, w, b, *window[1:4])
        g = torch.randn_like(y)
        y.backward(g)
    z = expected(*wide, *window[1:4])
    z.backward(g.double())
    assert_close(y.detach(), z.detach(), terms=w[0].numel(), scale=10)
    for leaf, leaf64 in zip(leaves, wide, strict=True):
        assert_close(leaf.grad, leaf64.grad, terms=y[:, 0].numel(), scale=10)


# Contiguous planes go through strips of rows: several an image, the last one short.
@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("window", [w for w in WINDOWS if w[0] in (3, 4, 5, 7, 31)])
def test_strips(window, name):
    assert_values_and_gradients(*tensors((18, 61, 45), window, contiguous), window, name)


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [WINDOWS[4], WINDOWS[10], WINDOWS[14], WINDOWS[17]])
def test_strips_of_any_dtype(window, dtype, name):
    assert_values_and_gradients(*tensors((9, 33, 40), window, contiguous, dtype), window, name)


# Stride 1 and no tile: correlated over strips in either layout, by tiles as wide as they come out
# even, with one vector of channels short.
@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("kernel", [15, 8, (1, 11), (11, 1), (2, 51)])
def test_correlated_kernels(kernel, layout, dtype, name):
    rows, columns = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    window = (kernel, 1, (rows // 2, columns // 2), 1, 1)
    size = (21, 17, 40) if columns > 8 else (21, 33, 17)
    assert_values_and_gradients(*tensors(size, window, layout, dtype), window, name)


# channels_last: several groups of rows, the last one odd; tiles inside the image and at each edge.
@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("window", [w for w in WINDOWS if w[0] in (3, 5, 7) and w[4] == 1])
def test_groups_of_rows(window, name):
    assert_values_and_gradients(*tensors((37, 21, 45), window, channels_last), window, name)


@pytest.mark.parametrize("window", [WINDOWS[2], WINDOWS[4], WINDOWS[16]])
def test_threads_share_a_group_of_rows(window):
    x, w, b = tensors((272, 22, 29), window, channels_last)
    leaves = [t.requires_grad_() for t in (x, w, b)]

    def result_and_gradients():
        y = depthwise_conv2d(x, w, b, *window[1:4])
        return y.detach(), *torch.autograd.grad(y, leaves, y.detach())

    assert_same_bits_on_any_threads(result_and_gradients)


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("stride", [1, 2])
def test_images_past_the_caches(stride, name):
    """From 8 and 32 MiB on results and inputs are stored and fetched in other ways."""
    x, w = channels_last(torch.randn(5, 64, 129, 131)), torch.randn(64, 1, 3, 3)
    assert x.nbytes > 20 << 20
    x.requires_grad_()
    with isa(name):
        y = depthwise_conv2d(x, w, None, stride, 1)
        (gradient,) = torch.autograd.grad(y, x, y.detach())
        parts = [depthwise_conv2d(image, w, None, stride, 1) for image in x.split(1)]
        gradients = [torch.autograd.grad(part, x, part.detach())[0] for part in parts]
    assert torch.equal(y, torch.cat(parts))
    assert torch.equal(gradient, sum(gradients))


# Below, at and above the channels of a unit (128), in blocks of whole vectors.
@pytest.mark.parametrize("channels", [127, 128, 129, 272, 400])
@pytest.mark.parametrize("window", [WINDOWS[2], WINDOWS[4], WINDOWS[11], WINDOWS[13]])
def test_blocks_of_channels(window, channels):
    x, w, b = tensors((channels, 11, 9), window, channels_last)
    assert_values_and_gradients(x, w, b, window, ISAS[-1])


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("large", [2**31, 2**40, 2**63 - 1])
def test_strides_and_dilations_past_32_bits(large, layout):
    x, w, b = tensors((17, 5, 6), WINDOWS[2], layout)
    leaves = [t.requires_grad_() for t in (x, w, b)]
    y = depthwise_conv2d(x, w, b, (1, large), 1)
    wide = double(x, w, b)
    z = expected(*wide, 1, 1)[..., :1]
    y.sum().backward()
    z.sum().backward()
    assert_close(y.detach(), z.detach(), terms=9, scale=10)
    for leaf, leaf64 in zip(leaves, wide, strict=True):
        assert_close(leaf.grad, leaf64.grad, terms=30, scale=10)
    column = w.detach()[..., :1]
    z = expected(x.double(), column.double(), None, 1, 0)
    assert_close(depthwise_conv2d(x, column, None, 1, 0, (1, large)).detach(), z.detach(), 3, 10)
    with pytest.raises(RuntimeError, match="kernel no larger"):
        depthwise_conv2d(x, w, b, 1, 1, large)


# Past the caches: from 16 MiB of output stored past them, from 32 MiB in all read row by row.
@pytest.mark.parametrize("name", [n for n in ISAS if n != "scalar"])
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("stride", [1, 2])
def test_tensors_past_the_caches(stride, layout, name):
    sizes = (2, 144, 121, 125) if stride == 1 else (2, 144, 235, 251)
    x, w, b = layout(torch.randn(sizes)), torch.randn(144, 1, 3, 3), torch.randn(144)
    with isa(name):
        assert_same_bits_on_any_threads(lambda: depthwise_conv2d(x, w, b, stride, 1))
        y = depthwise_conv2d(x, w, b, stride, 1)
    assert y.numel() * 4 >= 16 << 20
    z = torch.nn.functional.conv2d(x, w, b, stride, 1, groups=144)
    torch.testing.assert_close(y, z, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("window", [(k, s, k // 2, 1, 1) for k in (3, 5, 7) for s in (1, 2)])
def test_many_pixels_take_weights_in_float32(window, dtype, name):
    x, w, b = tensors((19, 9, 18), window, channels_last, dtype, batch=14)
    wide = double(x, w, b)
    x.requires_grad_()
    with isa(name):
        for weight in (w, pack_depthwise_weight(w)):
            x.grad = None
            y = depthwise_conv2d(x, weight, b, *window[1:4])
            g = torch.randn_like(y)
            y.backward(g)
            z = expected(*wide, *window[1:4])
            (grad,) = torch.autograd.grad(z, wide[0], g.double())
            assert_close(y.detach(), z.detach(), terms=w[0].numel(), scale=10)
            assert_close(x.grad, grad, terms=w[0].numel(), scale=10)
