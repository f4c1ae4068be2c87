from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck
from torch.library import opcheck

import fastconv
from fastconv import reference
from fastconv.ops import dense_conv2d, pack_dense_weight
from tests.helpers import (
    ACTIVATIONS,
    DTYPES,
    ISAS,
    LAYOUTS,
    assert_close,
    assert_same_bits_on_any_threads,
    channels_last,
    contiguous,
    isa,
    reaches,
)
from tests.test_optimize import assert_same, kernels, randomize

# channels, out_channels, (height, width), kernel, stride, padding (top, left, bottom, right),
# dilation: the layers of the networks small, then edges of tiles, panels and images.
CASES = [
    (16, 32, (9, 28), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (24, 64, (7, 7), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (32, 40, (14, 15), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    (8, 33, (13, 13), (5, 5), (1, 1), (2, 2, 2, 2), (1, 1)),
    (5, 7, (6, 9), (2, 4), (3, 2), (1, 0, 2, 3), (1, 1)),
    (17, 100, (11, 10), (3, 2), (1, 2), (0, 2, 1, 0), (2, 1)),
    (6, 16, (12, 12), (3, 3), (2, 1), (2, 2, 2, 2), (2, 2)),
    (3, 20, (2, 3), (7, 7), (1, 1), (3, 3, 3, 3), (1, 1)),  # larger than the image
    (4, 17, (1, 1), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (2, 9, (3, 3), (1, 2), (1, 3), (4, 5, 6, 7), (1, 1)),  # rows and columns of padding alone
    (7, 1, (8, 8), (1, 1), (1, 1), (1, 1, 1, 1), (1, 1)),
    (1, 64, (5, 40), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (512, 32, (3, 20), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),  # neighbours whole pages apart
]


def tensors(case, dtype=torch.float32, layout=channels_last, batch=2):
    channels, out_channels, size, kernel, *_ = case
    return (
        layout(torch.randn(batch, channels, *size).to(dtype)),
        torch.randn(out_channels, channels, *kernel).to(dtype),
        torch.randn(out_channels).to(dtype),
    )


def expected(x, weight, bias, residual, window, activation):
    wide = (None if t is None else t.double() for t in (x, weight, bias, residual))
    return reference.dense_conv2d(*wide, *window, activation)


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values(case, dtype, name):
    x, weight, bias = tensors(case, dtype)
    z = expected(x, weight, bias, None, case[4:], None)
    residual = channels_last(torch.randn(z.shape).to(dtype))
    for pack, added, activation in (
        (pack_dense_weight, residual, "relu"),
        (pack_dense_weight, None, None),
        (contiguous, residual, "silu"),
    ):
        with isa(name):
            y = dense_conv2d(x, pack(weight), bias, added, *case[4:], activation)
        wanted = expected(x, weight, bias, added, case[4:], activation)
        assert_close(y, wanted, terms=weight[0].numel() + 2, scale=8)
        assert channels_last(y).stride() == y.stride()


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation, dtype, name):
    for case in (CASES[0], CASES[1]):
        x, weight, _ = tensors(case, dtype)
        with isa(name):
            y = dense_conv2d(x, weight, None, None, *case[4:], activation)
        wanted = expected(x, weight, None, None, case[4:], activation)
        assert_close(y, wanted, terms=weight[0].numel(), scale=20)


@pytest.mark.parametrize("out_channels", [1, 7, 8, 16, 17, 31, 32, 33, 48, 49, 64, 100])
@pytest.mark.parametrize("width", [1, 6, 7, 8, 13, 14, 15, 27, 29])
def test_edges_of_the_tiles(width, out_channels):
    case = (3, out_channels, (4, width), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
    x, weight, bias = tensors(case, batch=1)
    for name in ISAS:
        with isa(name):
            y = dense_conv2d(x, pack_dense_weight(weight), bias, None, 1, 1)
        assert_close(y, expected(x, weight, bias, None, case[4:], None), terms=27, scale=8)


@pytest.mark.parametrize("size", [(60, 56), (20, 7)])
@pytest.mark.parametrize("batch", [1, 5])
def test_groups_of_rows_and_of_images(batch, size):
    """More than is staged at a time: several bands of an image, several groups of images."""
    case = (320, 33, size, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
    x, weight, bias = tensors(case, batch=batch)
    y = dense_conv2d(x, pack_dense_weight(weight), bias, None, 1, 1)
    assert_close(y, expected(x, weight, bias, None, case[4:], None), terms=2880, scale=8)


def test_variants():
    x, weight = channels_last(torch.randn(1, 8, 9, 9)), torch.randn(32, 8, 3, 3)
    packed = pack_dense_weight(weight)
    with reaches("dense_conv2d.rows"):
        dense_conv2d(x, packed, None, None, 1, 1)
    with reaches("dense_conv2d.taps"):
        dense_conv2d(x, packed, None, None, 2, 1)
    with reaches("dense_conv2d.packing"):
        dense_conv2d(x, weight, None, None, 1, 1)
    with reaches("dense_conv2d.packing"):
        dense_conv2d(x.bfloat16(), packed.bfloat16(), None, None, 1, 1)


@pytest.mark.parametrize("input_layout", LAYOUTS)
@pytest.mark.parametrize("weight_layout", LAYOUTS)
def test_any_strides(input_layout, weight_layout):
    x, weight = input_layout(torch.randn(2, 6, 9, 8)), weight_layout(torch.randn(16, 6, 3, 3))
    residual = input_layout(torch.randn(2, 16, 5, 4))
    y = dense_conv2d(x, weight, None, residual, 2, 1)
    wanted = F.conv2d(x.double(), weight.double(), None, 2, 1) + residual
    assert_close(y, wanted, terms=54, scale=8)


def test_results_larger_than_the_caches_are_written_past_them():
    x, weight = channels_last(torch.randn(3, 3, 260, 256)), torch.randn(32, 3, 1, 2)
    for activation in ("relu", "silu"):
        y = dense_conv2d(x, weight, activation=activation)
        wanted = reference.activate(F.conv2d(x.double(), weight.double()), activation)
        assert_close(y, wanted, terms=6, scale=8)


def test_padding_words_unbatched_and_no_images():
    x, weight = torch.randn(3, 9, 9), torch.randn(32, 3, 4, 4)
    for padding in ("same", "valid", 2, (1, 2)):
        wanted = F.conv2d(x, weight, padding=padding)
        for given in (weight, pack_dense_weight(weight)):
            torch.testing.assert_close(dense_conv2d(x, given, padding=padding), wanted)
    assert dense_conv2d(x[None][:0], weight).shape == (0, 32, 6, 6)


def test_out_is_channels_last():
    x, weight = torch.randn(2, 3, 9, 9), torch.randn(8, 3, 3, 3)
    wanted = dense_conv2d(x, weight, None, None, 2, 1)
    out = torch.full_like(wanted, float("nan"))
    assert dense_conv2d(x, weight, None, None, 2, 1, out=out) is out
    assert torch.equal(out, wanted)
    with pytest.raises(RuntimeError, match="out"):
        dense_conv2d(x, weight, None, None, 2, 1, out=out.contiguous())


def test_nan_and_infinity_pass():
    for size in (20, 7):
        x, weight = torch.randn(1, 3, size, size), torch.randn(32, 3, 3, 3)
        x[0, 1, 5, 6], x[0, 2, 3, 3] = float("nan"), float("inf")
        for activation in ACTIVATIONS:
            y = dense_conv2d(x, weight, None, None, 1, 1, 1, activation)
            window = (1, 1), (1, 1, 1, 1), (1, 1)
            wanted = reference.dense_conv2d(x, weight, None, None, *window, activation)
            torch.testing.assert_close(y, wanted, equal_nan=True, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [30, 7])
def test_same_bits_on_any_threads(size, dtype):
    x, weight = torch.randn(3, 64, size, size).to(dtype), torch.randn(96, 64, 3, 3).to(dtype)
    for given in (weight, pack_dense_weight(weight)):
        call = partial(dense_conv2d, channels_last(x), given, None, None, 1, 1, 1, "silu")
        assert_same_bits_on_any_threads(call)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("activation", [None, "relu", "silu"])
def test_gradients(activation, packed):
    case = CASES[2]
    x, weight, bias = tensors(case)
    residual = torch.randn(2, 40, 7, 8)
    given = pack_dense_weight(weight) if packed else weight
    ours = [t.clone().requires_grad_() for t in (x, given, bias, residual)]
    theirs = [t.detach().double().requires_grad_() for t in ours]
    dense_conv2d(*ours, *case[4:], activation).sum().backward()
    reference.dense_conv2d(*theirs, *case[4:], activation).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a.grad, b.grad, terms=1000, scale=8)


def test_derivatives_of_float64():
    x, weight, bias = (t.double().requires_grad_() for t in tensors(CASES[8], batch=1))
    run = partial(dense_conv2d, padding=1, activation="silu")
    assert gradcheck(run, (x, weight[:2], bias[:2]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(layout):
    x, weight = layout(torch.randn(2, 3, 7, 9)), torch.randn(4, 3, 3, 3, requires_grad=True)
    op = torch.ops.fastconv.dense_conv2d.default
    opcheck(op, (x, weight, None, None, [2, 2], [1, 1, 1, 1], [1, 1], "relu"))
    packed, residual = pack_dense_weight(weight.detach()), torch.randn(2, 4, 7, 4)
    opcheck(op, (x, packed, torch.ones(4), residual, [1, 2], [0, 1, 2, 0], [1, 1], None))


def test_vmap_and_compile():
    x, weight = torch.randn(3, 2, 3, 8, 8), torch.randn(4, 3, 3, 3)
    run = partial(dense_conv2d, stride=2, padding=1)
    wanted = torch.stack([run(image, weight) for image in x])
    mapped = torch.func.vmap(run, (0, None))(x, weight)
    torch.testing.assert_close(mapped, wanted)
    compiled = torch.compile(dense_conv2d, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x[0], weight, None, None, 2, 1), wanted[0])


def test_flops_are_torchs():
    x, weight, bias = tensors(CASES[0])
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        dense_conv2d(x, weight)
        dense_conv2d(x, pack_dense_weight(weight), bias)
        ours = counter.get_total_flops()
        F.conv2d(x, weight)
    assert 2 * counter.get_total_flops() == 3 * ours


X, W = torch.ones(1, 3, 8, 8), torch.ones(4, 3, 3, 3)
PACKED = pack_dense_weight(W)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1, W), TypeError, "argument 'input' must be Tensor, not int"),
        ((X, W, [1]), TypeError, "argument 'bias' must be Tensor, not list"),
        ((X, W[:, :2]), RuntimeError, "weight of shape"),
        ((X[:, :0], W), RuntimeError, "weight"),
        ((X, W[:, :, :0]), RuntimeError, "weight"),
        ((X, PACKED[:, :, :, :2]), RuntimeError, "weight of shape"),
        ((X[0, 0], W), RuntimeError, "input"),
        ((X, W, torch.ones(3)), RuntimeError, "bias of shape"),
        ((X, PACKED, torch.ones(33)), RuntimeError, "bias"),
        ((X, W, None, torch.ones(1, 4, 8, 8)), RuntimeError, "residual of shape"),
        ((X, W.double()), RuntimeError, "dtype"),
        ((X, W, None, None, 0), RuntimeError, "stride"),
        ((X, W, None, None, 1, 0, 0), RuntimeError, "dilation"),
        ((X, W, None, None, 1, -1), RuntimeError, "padding"),
        ((X, W, None, None, 2, "same"), RuntimeError, "stride 1"),
        ((X[:, :, :2], W), RuntimeError, "no larger than the padded input"),
        ((X, W, None, None, 1, 0, 4), RuntimeError, "no larger than the padded input"),
        ((X, W, None, None, 1, 0, 1, "tanh"), RuntimeError, "got 'tanh'"),
    ],
)
def test_bad_input(arguments, error, message, device):
    moved = [a.to(device) if isinstance(a, torch.Tensor) else a for a in arguments]
    with pytest.raises(error, match=message):
        dense_conv2d(*moved)


class Bottleneck(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, 32, 1)
        self.spatial = nn.Conv2d(32, 48, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(48)
        self.same = nn.Conv2d(48, channels, 3, padding=1)

    def forward(self, x):
        y = F.relu(self.norm(self.spatial(F.relu(self.reduce(x)))))
        return F.relu(self.same(y) + x)


def test_optimized_networks_call_it_for_single_images():
    model, x = randomize(nn.Sequential(Bottleneck(32), Bottleneck(32))), torch.randn(1, 32, 9, 9)
    fast = fastconv.optimize(model, x, measure=False, winograd=False)
    assert_same(model, fast, x)
    assert_same(model, fast, torch.randn(3, 32, 9, 9))
    assert kernels(fast) == ["pointwise_conv2d", "dense_conv2d", "dense_conv2d"] * 2
    rows = [row for row in fast.receipt if row["kernel"] == "dense_conv2d"]
    assert [row["activation"] for row in rows] == ["relu", None] * 2
    batch, settings = torch.randn(2, 32, 9, 9), {"measure": False, "winograd": False}
    in_batches = fastconv.optimize(model, batch, **settings)
    assert kernels(in_batches) == ["pointwise_conv2d", "torch", "torch"] * 2
    narrow = fastconv.optimize(model, x, torch.bfloat16, measure=False)
    assert kernels(narrow) == ["pointwise_conv2d", "torch", "torch"] * 2


def test_one_weight_for_two_windows():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(32, 32, 3, 3))

        def forward(self, x):
            return F.conv2d(F.conv2d(x, self.weight, padding=1), self.weight, dilation=2)

    model, x = Twice().eval(), torch.randn(1, 32, 9, 9)
    fast = fastconv.optimize(model, x, measure=False, winograd=False)
    assert_same(model, fast, x)
    assert kernels(fast) == ["dense_conv2d"] * 2
    assert sum(buffer.dim() == 5 for buffer in fast.graph.buffers()) == 1


@pytest.mark.parametrize("to", [torch.float64, torch.float16, "meta"])
def test_weights_that_move_lie_as_all_kernels_read_them(to):
    model = nn.Sequential(
        nn.Conv2d(48, 40, 1), nn.Conv2d(40, 33, 3), nn.Conv2d(33, 64, 3, bias=False)
    )
    x = torch.randn(1, 48, 9, 9)
    fast = fastconv.optimize(model.eval(), x, measure=False, winograd=False)
    assert {b.dim() for b in fast.graph.buffers()} == {1, 3, 5}
    if to == "meta":
        assert fast.to(to)(x.to(to)).shape == (1, 64, 5, 5)
    else:
        torch.testing.assert_close(fast.to(to)(x.to(to)), model.to(to)(x.to(to)))
    assert {tuple(b.shape) for b in fast.graph.buffers() if b.dim() > 1} == {
        tuple(conv.weight.shape) for conv in model
    }


def test_layer():
    layer = fastconv.nn.DenseConv2d(6, 8, 3, 2, padding=1, dilation=2, activation="relu6")
    x = torch.randn(2, 6, 9, 9)
    wanted = F.relu6(F.conv2d(x, layer.weight, layer.bias, 2, 1, 2))
    torch.testing.assert_close(layer(x), wanted)
    assert layer.state_dict().keys() == torch.nn.Conv2d(6, 8, 3).state_dict().keys()
    circular = fastconv.nn.DenseConv2d(6, 8, 3, padding=1, padding_mode="circular")
    torch.testing.assert_close(circular(x), torch.nn.Conv2d.forward(circular, x))
    with pytest.raises(ValueError, match="groups 1"):
        fastconv.nn.DenseConv2d(3, 9, 3, groups=3)
