import pytest
import torch
from torch.autograd import gradcheck

from fastconv import _C, reference
from fastconv.ops import pack_pointwise_pairs, pack_pointwise_weight, pointwise_conv2d
from tests.cuda.emulator import ORDERS, SMALL_H100, emulated, launches, recorded
from tests.helpers import ACTIVATIONS, DTYPES, LAYOUTS, assert_close, channels_last, contiguous
from tests.test_pointwise_conv2d import expectation, make

# batch, in, out, height, width: below, at and above a tile of pixels, channels and depth; channels
# and pixels in whole packs and not; images that share a tile.
SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 3, 5, 4, 7),
    (1, 16, 64, 8, 16),
    (2, 17, 65, 9, 15),
    (5, 24, 40, 5, 8),
    (3, 40, 24, 7, 7),
    (1, 72, 200, 3, 8),
    (130, 33, 9, 1, 1),
    (1, 100, 33, 1, 33),
]
STRIDES = [(1, 1), (2, 2), (1, 3)]
SMALL = [contiguous, channels_last]


def unit(dtype):
    """Which kernels serve it: those of the matrix unit or of the CUDA cores."""
    return "mma" if dtype.itemsize == 2 else "simt"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", SMALL)
@pytest.mark.parametrize("shape", SHAPES)
def test_values(shape, layout, dtype):
    for stride, pack in zip(STRIDES, [None, pack_pointwise_weight, None], strict=True):
        x, weight, bias, residual = make(shape, dtype, layout, stride)
        w = pack(weight) if pack else weight
        with emulated(), launches(f"pointwise_conv2d_{unit(dtype)}"):
            y = pointwise_conv2d(x, w, bias, residual, stride, "relu6")
            bare = pointwise_conv2d(x, w, stride=stride)
        expected = expectation(x, weight, bias, residual, stride, "relu6")
        assert_close(y, expected, shape[1] + 2, scale=4)
        assert_close(bare, expectation(x, weight, stride=stride), shape[1] + 2, scale=4)
        assert y.stride() == residual.stride()


# A block goes from tile to tile of the pixels; the weight's chunks stay, or come again.
@pytest.mark.parametrize("layout", SMALL)
@pytest.mark.parametrize(
    "shape", [(4, 40, 32, 24, 24), (1, 1024, 24, 8, 24), (1, 48, 328, 16, 8), (1, 1000, 64, 5, 9)]
)
def test_many_tiles(shape, layout):
    x, weight, bias, residual = make(shape, torch.bfloat16, layout)
    with emulated():
        y = pointwise_conv2d(x, weight, bias, residual)
    assert_close(y, expectation(x, weight, bias, residual), shape[1] + 2, scale=4)


@pytest.mark.parametrize("layout", SMALL)
@pytest.mark.parametrize("outs", [8, 24, 40, 64, 96, 104, 128, 136, 192, 200, 320])
def test_tile_of_each_width(outs, layout):
    x, weight, bias, residual = make((1, 8, outs, 2, 8), torch.float16, layout)
    one = _C.gpu.Device(architecture=90, multiprocessors=1)  # so that the widest tiles are taken
    with emulated(device=one):
        y = pointwise_conv2d(x, weight, bias, residual)
    assert_close(y, expectation(x, weight, bias, residual), terms=10, scale=4)


# Few pixels and many channels, of which parts are summed apart: whole parts and a last one that is
# shorter; whole packs and not; more than one tile of pixels and of outputs.
H100 = _C.gpu.Device()
SPLIT = [(1, 896, 24, 7, 8), (1, 777, 33, 5, 9), (3, 808, 40, 7, 7), (1, 1000, 72, 1, 1)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", SMALL)
@pytest.mark.parametrize("shape", SPLIT)
def test_splits_of_the_channels(shape, layout, dtype):
    for stride, activation in (((1, 1), "silu"), ((2, 1), None)):
        x, weight, bias, residual = make(shape, dtype, layout, stride)
        with (
            emulated(device=H100),
            launches(f"pointwise_conv2d_split_{unit(dtype)}"),
            launches("pointwise_conv2d_join"),
        ):
            y = pointwise_conv2d(x, weight, bias, residual, stride, activation)
            bare = pointwise_conv2d(x, pack_pointwise_weight(weight), stride=stride)
        expected = expectation(x, weight, bias, residual, stride, activation)
        assert_close(y, expected, shape[1] + 2, scale=4)
        assert_close(bare, expectation(x, weight, stride=stride), shape[1] + 2, scale=4)
        assert y.stride() == residual.stride()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_splits_have_the_same_bits_in_any_order(dtype, order):
    x, weight, bias, residual = make(SPLIT[0], dtype, channels_last)
    results = []
    for turns in ("forward", order):
        with emulated(turns, H100), launches("pointwise_conv2d_join"):
            results.append(pointwise_conv2d(x, weight, bias, residual))
    assert torch.equal(*results)


@pytest.mark.parametrize(
    ("shape", "dtype", "splits"),
    [
        ((1, 960, 160, 7, 7), torch.bfloat16, 10),
        ((1, 160, 960, 7, 7), torch.bfloat16, 1),  # five chunks
        ((32, 960, 160, 7, 7), torch.bfloat16, 1),  # half the multiprocessors have a tile
        ((1, 960, 160, 7, 7), torch.float32, 30),
        ((1, 24, 144, 7, 7), torch.float32, 1),
        ((64, 960, 160, 7, 7), torch.float32, 1),
    ],
)
def test_how_many_splits(shape, dtype, splits):
    x, weight, bias, _ = make(shape, dtype, channels_last)
    with recorded(H100) as planned:
        pointwise_conv2d(x, weight, bias)
    first, *rest = planned
    of_one = 5 if dtype is torch.bfloat16 else 3
    if splits > 1:
        assert first.blocks == splits * of_one
        assert [launch.kernel for launch in rest] == ["pointwise_conv2d_join"]
    else:
        assert (first.kernel, rest) == (f"pointwise_conv2d_{unit(dtype)}", [])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation, dtype):
    for layout in SMALL:
        x, weight, bias, residual = make((2, 8, 40, 4, 8), dtype, layout)
        with emulated():
            y = pointwise_conv2d(4 * x, weight, bias, residual, activation=activation)
        expected = expectation(4 * x, weight, bias, residual, activation=activation)
        assert_close(y, expected, terms=10, scale=16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", SMALL)
@pytest.mark.parametrize("shape", [*SHAPES[:6], (5, 70, 40, 16, 16)])
def test_gradients(shape, layout, dtype):
    for stride in STRIDES:
        tensors = [t.requires_grad_() for t in make(shape, dtype, layout, stride)]
        doubles = [t.detach().double().clone().requires_grad_() for t in tensors]
        expected = reference.pointwise_conv2d(*doubles, stride)
        grad = layout(torch.randn(expected.shape).to(dtype))
        expected.backward(grad.double())
        with emulated(), launches(f"pointwise_conv2d_weight_gradient_{unit(dtype)}"):
            pointwise_conv2d(*tensors, stride).backward(grad)
        pixels = shape[0] * shape[3] * shape[4]
        all_terms = (shape[2], pixels, pixels, 1)
        for ours, theirs, terms in zip(tensors, doubles, all_terms, strict=True):
            scale = 4 * (pixels**0.5 if terms == pixels else 1)
            assert_close(ours.grad, theirs.grad, terms, scale)
            assert ours.grad.stride() == ours.stride() or 1 in ours.shape


def test_derivatives():
    shapes = ((2, 3, 3, 4), (2, 3, 1, 1), (2,), (2, 2, 2, 4))
    tensors = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    with emulated(), launches("pointwise_conv2d_spread"):
        assert gradcheck(pointwise_conv2d, (*tensors, (2, 1), "silu"))


def test_only_the_gradients_wanted():
    x, weight, _, residual = make((2, 3, 5, 4, 4))
    backward = torch.ops.fastconv.pointwise_conv2d_backward
    full = backward(residual, x, weight, (1, 1), (True, True, True))
    for wanted in range(3):
        with emulated():
            one = backward(residual, x, weight, (1, 1), [i == wanted for i in range(3)])
        assert [t.numel() > 0 for t in one] == [i == wanted for i in range(3)]
        torch.testing.assert_close(one[wanted], full[wanted])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("weight_layout", [pack_pointwise_weight, "slice", "expand"])
def test_any_strides(layout, weight_layout, dtype):
    x, weight, bias, residual = make((2, 8, 16, 6, 8), dtype)
    if weight_layout == "slice":
        weight = torch.randn(32, 17, 1, 1).to(dtype)[::2, 1::2]
    elif weight_layout == "expand":
        weight = torch.randn(1, 8, 1, 1).to(dtype).expand(16, 8, 1, 1)
    else:
        weight = weight_layout(weight)
    x, bias = layout(x), torch.randn(32).to(dtype)[::2]
    with emulated():
        y = pointwise_conv2d(x, weight, bias, residual)
    assert_close(y, expectation(x, weight, bias, residual), terms=12, scale=8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", SMALL)
def test_misaligned_memory(layout, dtype):
    x, weight, bias, residual = make((1, 8, 16, 4, 8), dtype, layout)
    order = (0, 2, 3, 1) if layout is channels_last else (0, 1, 2, 3)

    def moved(t):
        memory = torch.empty(t.numel() + 1, dtype=dtype)[1:]
        dense = memory.view([t.shape[d] for d in order])
        return dense.permute(*[order.index(d) for d in range(4)]).copy_(t)

    with emulated():
        y = pointwise_conv2d(moved(x), moved(weight), bias, moved(residual))
    assert_close(y, expectation(x, weight, bias, residual), terms=10, scale=8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_pass_as_in_torch(dtype):
    values = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e4, -2.0, 0.0])
    x = values.repeat(8, 4).reshape(1, 8, 3, 8).to(dtype)
    weight = torch.zeros(8, 8, 1, 1, dtype=dtype)
    weight[:, 0, 0, 0] = torch.arange(8) - 3.0
    for layout in SMALL:
        for activation in ACTIVATIONS:
            with emulated():
                y = pointwise_conv2d(layout(x), weight, activation=activation)
            expected = reference.pointwise_conv2d(x.float(), weight.float(), None, None, (1, 1))
            expected = reference.activate(expected, activation).to(dtype)
            torch.testing.assert_close(y, expected, equal_nan=True, check_stride=False)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", SMALL)
def test_threads_take_turns_in_any_order(layout, dtype, order):
    x, weight, bias, residual = make((2, 40, 72, 8, 24), dtype, layout)
    backward = torch.ops.fastconv.pointwise_conv2d_backward
    results = []
    for turns in ("forward", order):
        with emulated(turns):
            y = pointwise_conv2d(x, weight, bias, residual, activation="silu")
            results.append((y, *backward(residual, x, weight, (1, 1), (True, True, True))))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert_close(
        results[0][0], expectation(x, weight, bias, residual, activation="silu"), 42, scale=4
    )


def test_empty_and_packed_pairs():
    x, weight, *_ = make((2, 8, 8, 3, 4), torch.bfloat16, channels_last)
    with emulated():
        assert pointwise_conv2d(x[:0], weight).shape == (0, 8, 3, 4)
        with pytest.raises(RuntimeError, match="weight of the dtype of input"):
            pointwise_conv2d(x, pack_pointwise_pairs(weight))


def test_plans_past_32_bits():
    x = torch.empty(1 << 20, 64, 6, 6, dtype=torch.bfloat16)  # never touched
    with recorded(SMALL_H100) as planned:
        y = pointwise_conv2d(x, torch.empty(8, 64, 1, 1, dtype=torch.bfloat16))
    (launch,) = planned
    assert y.shape == (1 << 20, 8, 6, 6)
    assert 0 < launch.blocks < 1 << 31
