"""bfloat16 by pairs of channels: packed weights, fused blocks, and what must pass through them."""

from functools import partial

import pytest
import torch
from torch import fx
from torch.library import opcheck

import fastconv
from fastconv import packed_weights, reference
from fastconv.ops import inverted_residual, pack_pointwise_pairs, pointwise_conv2d, separable_conv2d
from fastconv.optimize.pack import pack_weight
from tests.helpers import (
    ACTIVATIONS,
    MATRIX_ISAS,
    assert_close,
    assert_same_bits_on_any_threads,
    channels_last,
    contiguous,
    isa,
    reaches,
)

BF16 = torch.bfloat16
# Between its parts a block rounds to 8 bits: relative to values that stay near one.
NO_SQUEEZE = (None,) * 4
BLOCK_ERROR = 0.03


def random(*shape, scale=1.0):
    return (torch.randn(shape) * scale).to(BF16)


def doubles(*tensors):
    return [t.double() if isinstance(t, torch.Tensor) else t for t in tensors]


# batch, in, out, height, width, stride: odd channels, one of each, tiles' edges, groups of tiles
SHAPES = [
    (2, 3, 5, 4, 7, 1),
    (1, 1, 1, 1, 1, 1),
    (1, 16, 96, 5, 14, 1),
    (2, 17, 33, 5, 5, 2),
    (1, 130, 1100, 6, 5, 1),
    (1, 24, 49, 9, 3, 3),
    (1, 144, 24, 10, 9, 1),
    (1, 66, 41, 13, 5, 1),
]


@pytest.mark.parametrize("name", MATRIX_ISAS)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("shape", SHAPES)
def test_packed_weight(shape, layout, name):
    batch, channels, out, height, width, stride = shape
    x = layout(random(batch, channels, height, width))
    weight, bias = random(out, channels, 1, 1, scale=channels**-0.5), random(out)
    residual = random(batch, out, -(-height // stride), -(-width // stride))
    for activation in ("relu6", "silu"):
        with isa(name):
            y = pointwise_conv2d(
                x, pack_pointwise_pairs(weight), bias, layout(residual), stride, activation
            )
        expected = reference.pointwise_conv2d(
            *doubles(x, weight, bias, residual), (stride, stride), activation
        )
        assert_close(y, expected, terms=channels + 2, scale=4)
        assert y.stride() == layout(residual).stride()


def test_packing_is_undone_by_the_reference():
    x = random(1, 5, 2, 2)
    weight = random(7, 5, 1, 1)
    packed = pack_pointwise_pairs(weight)
    assert packed.shape == (7, 3, 1, 1)
    assert packed.dtype == torch.int32
    assert torch.equal(packed_weights.unpack_pointwise_pairs(x, packed), weight)
    assert torch.equal(packed_weights.unpack_pointwise_pairs(x.float(), packed), packed)


@pytest.mark.parametrize(
    ("x", "weight", "message"),
    [
        (random(1, 8, 2, 2), torch.zeros(4, 3, 1, 1, dtype=torch.int32), "memory order"),
        (random(1, 8, 2, 2), pack_pointwise_pairs(random(4, 6, 1, 1)), r"\(out_channels, 4, 1, 1"),
        (torch.ones(1, 8, 2, 2), pack_pointwise_pairs(random(4, 8, 1, 1)), "dtype of input"),
    ],
)
def test_packed_weights_that_do_not_fit(x, weight, message):
    with pytest.raises(RuntimeError, match=message):
        pointwise_conv2d(x, weight)


@pytest.mark.parametrize("name", MATRIX_ISAS)
def test_what_is_not_finite_stays_in_its_pixel(name):
    for channels in (6, 7):
        x = channels_last(random(1, channels, 4, 5))
        clean = x.clone()
        x[0, 0, 1, 2], x[0, channels - 1, 2, 3], x[0, 1, 3, 4] = torch.nan, torch.inf, -torch.inf
        weight = random(20, channels, 1, 1).abs() + 0.5
        for pack in (contiguous, pack_pointwise_pairs):
            with isa(name):
                y, of_clean = (pointwise_conv2d(t, pack(weight)) for t in (x, clean))
            assert y[0, :, 1, 2].isnan().all()
            assert (y[0, :, 2, 3] == torch.inf).all()
            assert (y[0, :, 3, 4] == -torch.inf).all()
            rest = torch.isfinite(x).all(1, keepdim=True).expand_as(y)
            assert torch.equal(y[rest], of_clean[rest])


# batch, in, hidden, out, height, width, kernel, stride
BLOCKS = [
    (2, 8, 24, 8, 9, 9, 3, 1),
    (1, 16, 96, 24, 28, 28, 3, 2),
    (1, 24, 143, 24, 15, 13, 5, 1),
    (1, 64, 130, 64, 7, 7, 3, 1),
    (1, 10, 33, 7, 7, 7, 7, 2),
    (1, 2, 1, 1, 3, 1, 3, 1),
    (2, 7, 20, 7, 8, 8, 3, 1),  # no pairs of channels: by parts
]


def block_of(shape):
    batch, channels, hidden, out, height, width, kernel, stride = shape
    x = channels_last(random(batch, channels, height, width))
    tensors = [random(hidden, channels, 1, 1, scale=channels**-0.5), random(hidden)]
    tensors += [random(hidden, 1, kernel, kernel, scale=1 / kernel), random(hidden)]
    tensors += [random(out, hidden, 1, 1, scale=hidden**-0.5), random(out)]
    return x, tensors, stride, kernel // 2, stride == 1 and channels == out


def packed(tensors):
    """The 1x1 weights of a block in pairs."""
    is_matrix = (t.dim() == 4 and t.shape[2:] == (1, 1) for t in tensors)
    return [
        pack_pointwise_pairs(t) if is_ else t for t, is_ in zip(tensors, is_matrix, strict=True)
    ]


@pytest.mark.parametrize("name", MATRIX_ISAS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", BLOCKS)
def test_inverted_residual(shape, activation, name):
    x, tensors, stride, pad, adds = block_of(shape)
    window = ((stride, stride), (pad,) * 4)
    arguments = (*doubles(x, *tensors), *NO_SQUEEZE, *window, activation, adds)
    expected = reference.inverted_residual(*arguments)
    with isa(name):
        y = inverted_residual(x, *tensors, stride, pad, activation, adds)
        same = inverted_residual(x, *packed(tensors), stride, pad, activation, adds)
    assert (y - expected).abs().max() < BLOCK_ERROR * max(1, expected.abs().max())
    assert torch.equal(y, same)
    assert y.stride() == channels_last(y).stride()


def assert_relu6_block(name, x, tensors, stride, pad, adds):
    window = ((stride, stride), (pad,) * 4)
    arguments = (*doubles(x, *tensors), *NO_SQUEEZE, *window, "relu6", adds)
    expected = reference.inverted_residual(*arguments)
    with isa(name):
        y = inverted_residual(x, *packed(tensors), stride, pad, "relu6", adds)
    assert (y - expected).abs().max() < BLOCK_ERROR * max(1, expected.abs().max())


@pytest.mark.parametrize("name", MATRIX_ISAS)
@pytest.mark.parametrize("scale", [2.0**-40, 2.0**-12, 0.25])
def test_small_filters(scale, name):
    """In float16 the smallest of these would be zero."""
    shape = (1, 32, 80, 24, 12, 9, 3, 1)
    x, tensors, stride, pad, adds = block_of(shape)
    tensors[2], tensors[3] = tensors[2] * scale, tensors[3] * scale
    tensors[4] = tensors[4] / scale
    assert_relu6_block(name, x, tensors, stride, pad, adds)


@pytest.mark.parametrize("name", MATRIX_ISAS)
def test_filters_beyond_float16(name):
    """Infinities that cancel would leave NaN."""
    x, tensors, stride, pad, adds = block_of((1, 32, 80, 24, 12, 9, 3, 1))
    tensors[0], tensors[1] = torch.zeros_like(tensors[0]), torch.ones_like(tensors[1])
    taps = torch.tensor([1, -1, 1, -1, 0, 1, -1, 1, -1], dtype=BF16) * 2.0**16
    tensors[2][40:] = taps.view(1, 3, 3)
    assert_relu6_block(name, x, tensors, stride, pad, adds)


@pytest.mark.parametrize("name", MATRIX_ISAS)
@pytest.mark.parametrize("stride", [1, 2])
def test_nan_reaches_what_reads_it_alone(stride, name):
    """What float16 will not do is left to float32, strip by strip."""
    x, tensors, _, pad, _ = block_of((2, 16, 70, 8, 60, 30, 3, stride))
    clean = x.clone()
    x[0, 3, 17, 21] = torch.nan
    read = torch.zeros(1, 1, 60, 30)
    read[0, 0, 17, 21] = 1
    read = torch.nn.functional.max_pool2d(read, 3, stride, 1)[0, 0].bool()
    with isa(name):
        call = partial(inverted_residual, x, *packed(tensors), stride, pad, "relu6", False)
        y = call()
        of_clean = inverted_residual(clean, *packed(tensors), stride, pad, "relu6", False)
        assert_same_bits_on_any_threads(call)
    assert y[0, :, read].isnan().all()
    rest = torch.stack([~read, torch.ones_like(read)])[:, None].expand_as(y)
    assert (y[rest] - of_clean[rest]).abs().max() < BLOCK_ERROR * of_clean.abs().max()
    assert torch.equal(y[1], of_clean[1])


@pytest.mark.parametrize("name", MATRIX_ISAS)
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_of_one_side(stride, name):
    x, tensors, _, _, _ = block_of((2, 16, 40, 8, 11, 16, 5, 1))
    window = ((stride, stride), (0, 3, 6, 1))
    arguments = (*doubles(x, *tensors), *NO_SQUEEZE, *window, "relu6", False)
    expected = reference.inverted_residual(*arguments)
    op = torch.ops.fastconv.inverted_residual
    with isa(name):
        y = op(x, *packed(tensors), *NO_SQUEEZE, *window, "relu6", False)
    assert (y - expected).abs().max() < BLOCK_ERROR * max(1, expected.abs().max())


@pytest.mark.parametrize("name", MATRIX_ISAS)
def test_infinite_taps_in_the_padding_are_skipped(name):
    x, tensors, stride, pad, _ = block_of((1, 16, 40, 8, 8, 9, 3, 1))
    tensors[0] = tensors[0].abs()
    tensors[2][35, 0, 0, 1] = torch.inf  # reads the row above
    with isa(name):
        y = inverted_residual(x.abs(), *packed(tensors), stride, pad, "relu6", False)
    assert torch.isfinite(y[:, :, 0]).all()


@pytest.mark.parametrize("name", MATRIX_ISAS)
@pytest.mark.parametrize("activation", ["relu", "relu6", "hardswish"])
@pytest.mark.parametrize("shape", BLOCKS)
def test_separable_conv2d(shape, activation, name):
    batch, _, hidden, out, height, width, _, _ = shape
    _, (_, _, *tensors), stride, pad, _ = block_of(shape)
    x = channels_last(random(batch, hidden, height, width))
    window = ((stride, stride), (pad,) * 4, (1, 1), activation, activation)
    shortcut = channels_last(random(batch, out, -(-height // stride), -(-width // stride)))
    expected = reference.separable_conv2d(*doubles(x, *tensors, shortcut), *NO_SQUEEZE, *window)
    with isa(name):
        y = separable_conv2d(x, *tensors, shortcut, *window)
        same = separable_conv2d(x, *packed(tensors), shortcut, *window)
    assert (y - expected).abs().max() < BLOCK_ERROR * max(1, expected.abs().max())
    assert torch.equal(y, same)


@pytest.mark.parametrize("name", MATRIX_ISAS)
@pytest.mark.parametrize("scale", [2.0**-20, 2.0**-6, 1.0, 2.0**40])
@pytest.mark.parametrize("hidden", [72, 33])
def test_separable_conv2d_of_inputs_beyond_float16(hidden, scale, name):
    """The upper half fits, but for strips with the 7; the lower half is `scale` times as large."""
    _, (_, _, *tensors), stride, pad, _ = block_of((1, 8, hidden, 24, 24, 30, 3, 1))
    x = random(1, hidden, 24, 30)
    x[:, :, 12:] *= scale
    x[:, 1, 14, 3] = 7
    tensors[1] = torch.zeros_like(tensors[1])
    tensors[2] = tensors[2] / min(scale, 1)
    window = ((stride, stride), (pad,) * 4, (1, 1), "relu6", None)
    expected = reference.separable_conv2d(*doubles(x, *tensors, None), *NO_SQUEEZE, *window)
    with isa(name):
        call = partial(separable_conv2d, channels_last(x), *packed(tensors), None, *window)
        y = call()
        assert_same_bits_on_any_threads(call)
    for rows in slice(0, 11), slice(11, 16), slice(16, 24):
        right = expected[:, :, rows]
        assert (y[:, :, rows] - right).abs().max() < BLOCK_ERROR * right.abs().max()


@pytest.mark.parametrize("name", [fastconv._C.detected_isa(), "amx_emulated"])
def test_same_bits_on_any_threads(name):
    for shape in (1, 24, 144, 24, 30, 28, 3, 1), (1, 96, 960, 96, 7, 7, 3, 1):
        x, tensors, stride, pad, adds = block_of(shape)
        with isa(name):
            assert_same_bits_on_any_threads(
                partial(inverted_residual, x, *packed(tensors), stride, pad, "relu6", adds)
            )


def test_opcheck_and_compile():
    x, tensors, stride, pad, adds = block_of(BLOCKS[0])
    arguments = (x, *packed(tensors), *NO_SQUEEZE, (stride, stride), (pad,) * 4, "relu6", adds)
    opcheck(torch.ops.fastconv.inverted_residual.default, arguments)
    weight = pack_pointwise_pairs(random(12, 8, 1, 1))
    opcheck(torch.ops.fastconv.pointwise_conv2d.default, (x, weight, None, None, (1, 1), "relu"))
    compiled = torch.compile(pointwise_conv2d, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x, weight), pointwise_conv2d(x, weight))
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():  # which takes the reference
        torch.testing.assert_close(pointwise_conv2d(x, weight), compiled(x, weight))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", MATRIX_ISAS)
def test_gradients(name, stride):
    """Pixels are multiplied two by two: an odd number of them, and more than a block."""
    for shape in (1, 3, 5, 3, 3), (2, 33, 65, 13, 12), (1, 17, 14, 1, 1):
        batch, channels, out, height, width = shape
        x = channels_last(random(batch, channels, height, width))
        weight = random(out, channels, 1, 1)
        sizes = (batch, out, -(-height // stride), -(-width // stride))
        grad, window = channels_last(random(*sizes)), (stride, stride)
        backward = torch.ops.fastconv.pointwise_conv2d_backward
        with isa(name):
            found = backward(grad, x, weight, window, (True, True, True))
        exact = reference.pointwise_conv2d_backward(
            *doubles(grad, x, weight), window, (True, True, True)
        )
        for ours, right in zip(found, exact, strict=True):
            assert_close(ours, right, terms=max(out, sizes[0] * sizes[2] * sizes[3]), scale=16)


# batch, in, out, height, width: a pixel, edges of tiles, of their steps and of blocks, more blocks
# than splits, sums of more than one cache.
WEIGHT_GRADIENTS = [
    (1, 1, 1, 1, 1),
    (1, 3, 5, 3, 3),
    (2, 33, 65, 13, 12),
    (1, 16, 31, 16, 17),
    (5, 48, 17, 31, 33),
    (2, 1030, 1040, 5, 7),
    (3, 40, 24, 64, 65),
]


@pytest.mark.parametrize("shape", WEIGHT_GRADIENTS)
@pytest.mark.parametrize("name", MATRIX_ISAS)
def test_weight_gradient_without_bias(name, shape):
    batch, channels, out, height, width = shape
    x = channels_last(random(batch, channels, height, width))
    weight, grad = random(out, channels, 1, 1), channels_last(random(batch, out, height, width))
    grad[:, -1] = 0
    mask = (False, True, False)
    backward = torch.ops.fastconv.pointwise_conv2d_backward
    with isa(name):
        found = backward(grad, x, weight, (1, 1), mask)[1]
        assert_same_bits_on_any_threads(lambda: backward(grad, x, weight, (1, 1), mask)[1])
    exact = reference.pointwise_conv2d_backward(*doubles(grad, x, weight), (1, 1), mask)[1]
    assert_close(found, exact, terms=batch * height * width, scale=16)
    assert (found[-1] == 0).all()


def test_optimize_fuses_and_packs():
    model = fastconv.models.mobilenet_v2(num_classes=5).eval()
    x = torch.randn(2, 3, 32, 32)
    fast = fastconv.optimize(model, (x,), dtype=BF16)
    kernels = [row["kernel"] for row in fast.receipt]
    assert kernels.count("inverted_residual") == 16
    assert kernels.count("separable_conv2d") == 1
    assert [row["layer"] for row in fast.receipt] == [
        row["layer"] for row in fastconv.optimize(model, (x,)).receipt
    ]
    if fastconv._C.isa() != "scalar":
        with reaches("inverted_residual.rows"), reaches("pointwise_conv2d.nhwc_pairs"):
            fast(x)
    names = {name for name, buffer in fast.named_buffers() if buffer.dtype == torch.int32}
    assert len(names) == 2 * 16 + 1 + 1


def test_a_weight_that_others_read_stays_as_it_is():
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(8, 8, 1)

        def forward(self, x):
            return self.conv(self.conv(x)) * self.conv.weight.mean()

    model, x = Scaled().eval(), torch.randn(1, 8, 4, 4)
    y = fastconv.optimize(model, (x,), dtype=BF16)(x)
    expected = model(x)
    assert (y - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_optimize_pairs_weights_for_the_cpu_alone(device):
    """Other devices' kernels read bfloat16 as it is."""
    weight = torch.randn(16, 8, 1, 1, dtype=torch.bfloat16, device=device)
    graph = fx.Graph()
    image, read = graph.placeholder("x"), graph.get_attr("weight")
    read.meta["val"] = weight
    window = {"groups": 1, "padding": [0, 0, 0, 0]}
    conv = graph.call_function(pointwise_conv2d, kwargs={"input": image, "weight": read, **window})
    module = fx.GraphModule({"weight": weight}, graph)
    pack_weight(module, conv, None)
    packed = getattr(module, str(conv.kwargs["weight"].target))
    assert packed.dtype == (torch.int32 if device == "cpu" else torch.bfloat16)
