from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck
from torch.library import opcheck

import fastconv
from fastconv import reference
from fastconv.ops import pack_stem_weight, stem_conv2d
from tests.helpers import (
    ACTIVATIONS,
    DTYPES,
    ISAS,
    LAYOUTS,
    MATRIX_ISAS,
    assert_close,
    assert_same_bits_on_any_threads,
    channels_last,
    contiguous,
    isa,
    reaches,
)

# channels, out_channels, (height, width), kernel, stride, padding (top, left, bottom, right): the
# stems of the networks small, then edges of the tiles, of the phases of a stride and of the image.
CASES = [
    (3, 32, (17, 33), (3, 3), (2, 2), (1, 1, 1, 1)),
    (3, 48, (20, 31), (3, 3), (2, 2), (0, 0, 1, 1)),
    (3, 64, (22, 30), (7, 7), (2, 2), (3, 3, 3, 3)),
    (3, 96, (35, 43), (11, 11), (4, 4), (2, 2, 2, 2)),
    (3, 40, (9, 70), (3, 3), (1, 1), (1, 1, 1, 1)),
    (1, 6, (28, 28), (5, 5), (1, 1), (2, 2, 2, 2)),
    (4, 17, (6, 29), (3, 5), (1, 2), (0, 3, 2, 0)),
    (2, 1, (7, 7), (2, 3), (3, 5), (1, 0, 0, 2)),
    (3, 24, (1, 1), (3, 3), (1, 1), (1, 1, 1, 1)),
    (3, 33, (2, 3), (7, 7), (2, 2), (3, 3, 3, 3)),
    (3, 16, (5, 6), (1, 1), (4, 4), (0, 0, 0, 0)),
    (1, 8, (3, 3), (1, 2), (1, 3), (4, 5, 6, 7)),  # rows and columns of padding alone
    (5, 80, (8, 15), (4, 4), (8, 8), (0, 0, 3, 8)),
]


def tensors(case, dtype=torch.float32, layout=contiguous, batch=2):
    channels, out_channels, size, kernel, *_ = case
    return (
        layout(torch.randn(batch, channels, *size).to(dtype)),
        torch.randn(out_channels, channels, *kernel).to(dtype),
        torch.randn(out_channels).to(dtype),
    )


def expected(x, weight, bias, case, activation):
    bias = None if bias is None else bias.double()
    return reference.stem_conv2d(x.double(), weight.double(), bias, *case[4:], activation)


@pytest.mark.parametrize("name", MATRIX_ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values(case, layout, dtype, name):
    x, weight, bias = tensors(case, dtype, layout)
    terms = weight[0].numel()
    for pack, activation in ((pack_stem_weight, "relu"), (contiguous, None)):
        with isa(name):
            y = stem_conv2d(x, pack(weight), bias, *case[4:], activation)
        assert_close(y, expected(x, weight, bias, case, activation), terms=terms, scale=8)
        assert channels_last(y).stride() == y.stride()


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation, dtype, name):
    case = CASES[0]
    x, weight, _ = tensors(case, dtype)
    with isa(name):
        y = stem_conv2d(x, weight, None, *case[4:], activation)
    assert_close(y, expected(x, weight, None, case, activation), terms=27, scale=20)


@pytest.mark.parametrize("out_channels", [1, 7, 8, 9, 16, 17, 31, 32, 33, 48, 49, 64, 112])
@pytest.mark.parametrize("width", [1, 5, 13, 14, 15, 28, 29])
def test_edges_of_the_tiles(width, out_channels):
    case = (3, out_channels, (4, width), (3, 3), (1, 1), (1, 1, 1, 1))
    x, weight, bias = tensors(case, batch=1)
    for name in ISAS:
        with isa(name):
            y = stem_conv2d(x, pack_stem_weight(weight), bias, 1, 1)
        assert_close(y, expected(x, weight, bias, case, None), terms=27, scale=8)


def test_variants():
    x, weight, bias = tensors(CASES[0])
    packed = pack_stem_weight(weight)
    for image, given, variant in (
        (x, packed, "nchw"),
        (channels_last(x), packed, "nhwc"),
        (x, weight, "packing"),
    ):
        with reaches(f"stem_conv2d.{variant}"):
            stem_conv2d(image, given, bias, 2, 1)
    with reaches("stem_conv2d.packing"):
        stem_conv2d(x.bfloat16(), packed.bfloat16(), None, 2, 1)


@pytest.mark.parametrize("input_layout", LAYOUTS)
@pytest.mark.parametrize("weight_layout", LAYOUTS)
def test_any_strides(input_layout, weight_layout):
    x, weight = input_layout(torch.randn(2, 3, 9, 8)), weight_layout(torch.randn(16, 3, 3, 3))
    y = stem_conv2d(x, weight, None, 2, 1)
    assert_close(y, F.conv2d(x.double(), weight.double(), None, 2, 1), terms=27, scale=8)


def test_results_larger_than_the_caches_are_written_past_them():
    x, weight = torch.randn(3, 3, 260, 256), torch.randn(32, 3, 1, 1)
    for dtype in (torch.float32, torch.bfloat16):
        for activation in ("relu", "silu"):
            inputs = x.to(dtype), weight.to(dtype)
            y = stem_conv2d(*inputs, activation=activation)
            wanted = reference.activate(F.conv2d(*(t.double() for t in inputs)), activation)
            assert_close(y, wanted, terms=3, scale=8)


def test_padding_words_unbatched_and_no_images():
    x, weight = torch.randn(3, 9, 9), torch.randn(8, 3, 4, 4)
    for padding in ("same", "valid", 2, (1, 2)):
        torch.testing.assert_close(
            stem_conv2d(x, weight, padding=padding), F.conv2d(x, weight, padding=padding)
        )
    assert stem_conv2d(x[None][:0], weight).shape == (0, 8, 6, 6)


def test_out_is_channels_last():
    x, weight = torch.randn(2, 3, 9, 9), torch.randn(8, 3, 3, 3)
    wanted = stem_conv2d(x, weight, None, 2, 1)
    out = torch.full_like(wanted, float("nan"))
    assert stem_conv2d(x, weight, None, 2, 1, out=out) is out
    assert torch.equal(out, wanted)
    with pytest.raises(RuntimeError, match="out"):
        stem_conv2d(x, weight, None, 2, 1, out=out.contiguous())


def test_nan_and_infinity_pass():
    x, weight = torch.randn(1, 3, 20, 20), torch.randn(32, 3, 3, 3)
    x[0, 1, 7, 11], x[0, 2, 3, 3] = float("nan"), float("inf")
    for activation in ACTIVATIONS:
        y = stem_conv2d(x, weight, None, 2, 1, activation)
        wanted = reference.stem_conv2d(x, weight, None, (2, 2), (1, 1, 1, 1), activation)
        torch.testing.assert_close(y, wanted, equal_nan=True, rtol=1e-4, atol=1e-4)


def test_same_bits_on_any_threads():
    for dtype in (torch.float32, torch.bfloat16):
        x, weight = torch.randn(3, 3, 64, 64).to(dtype), torch.randn(48, 3, 7, 7).to(dtype)
        assert_same_bits_on_any_threads(partial(stem_conv2d, x, weight, None, 2, 3, "silu"))


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
def test_gradients(activation):
    case = CASES[1]
    ours = [t.requires_grad_() for t in tensors(case)]
    theirs = [t.detach().double().requires_grad_() for t in ours]
    stem_conv2d(*ours, *case[4:], activation).sum().backward()
    reference.stem_conv2d(*theirs, *case[4:], activation).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a.grad, b.grad, terms=1000, scale=8)
        assert a.grad.stride() == a.stride()


def test_derivatives_of_float64():
    x, weight, bias = (t.double().requires_grad_() for t in tensors(CASES[8], batch=1))
    assert gradcheck(lambda *t: stem_conv2d(*t, 1, 1, "silu"), (x, weight[:2], bias[:2]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(layout):
    x, weight = layout(torch.randn(2, 3, 7, 9)), torch.randn(4, 3, 3, 3, requires_grad=True)
    op = torch.ops.fastconv.stem_conv2d.default
    opcheck(op, (x, weight, None, [2, 2], [1, 1, 1, 1], "relu"))
    opcheck(op, (x, pack_stem_weight(weight.detach()), torch.ones(4), [1, 2], [0, 1, 2, 0], None))


def test_vmap_and_compile():
    x, weight = torch.randn(3, 2, 3, 8, 8), torch.randn(4, 3, 3, 3)
    wanted = torch.stack([stem_conv2d(image, weight, None, 2, 1) for image in x])
    mapped = torch.func.vmap(lambda image: stem_conv2d(image, weight, None, 2, 1))(x)
    torch.testing.assert_close(mapped, wanted)
    compiled = torch.compile(stem_conv2d, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x[0], weight, None, 2, 1), wanted[0])


def test_flops_are_torchs():
    x, weight, _ = tensors(CASES[0])
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        stem_conv2d(x, weight)
        ours = counter.get_total_flops()
        F.conv2d(x, weight)
    assert counter.get_total_flops() == 2 * ours


X, W = torch.ones(1, 3, 8, 8), torch.ones(4, 3, 3, 3)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1, W), TypeError, "argument 'input' must be Tensor, not int"),
        ((X, W, [1]), TypeError, "argument 'bias' must be Tensor, not list"),
        ((X, W[:, :2]), RuntimeError, "weight of shape"),
        ((X[:, :0], W), RuntimeError, "weight of shape"),
        ((X, W[:, :, :0]), RuntimeError, "weight"),
        ((X[0, 0], W), RuntimeError, "input"),
        ((X, W, torch.ones(3)), RuntimeError, "bias of shape"),
        ((X, W.double()), RuntimeError, "dtype"),
        ((X, W, None, 0), RuntimeError, "stride"),
        ((X, W, None, 1, -1), RuntimeError, "padding"),
        ((X, W, None, 2, "same"), RuntimeError, "stride 1"),
        ((X[:, :, :2], W), RuntimeError, "no larger than the padded input"),
        ((X, W, None, 1, 0, "tanh"), RuntimeError, "got 'tanh'"),
    ],
)
def test_bad_input(arguments, error, message, device):
    moved = [a.to(device) if isinstance(a, torch.Tensor) else a for a in arguments]
    with pytest.raises(error, match=message):
        stem_conv2d(*moved)


def test_layer():
    layer = fastconv.nn.StemConv2d(3, 8, 3, 2, padding=1, activation="relu6")
    x = torch.randn(2, 3, 9, 9)
    wanted = F.relu6(F.conv2d(x, layer.weight, layer.bias, 2, 1))
    torch.testing.assert_close(layer(x), wanted)
    assert layer.state_dict().keys() == torch.nn.Conv2d(3, 8, 3).state_dict().keys()
    circular = fastconv.nn.StemConv2d(3, 8, 3, padding=1, padding_mode="circular")
    torch.testing.assert_close(circular(x), torch.nn.Conv2d.forward(circular, x))
    with pytest.raises(ValueError, match="groups 1"):
        fastconv.nn.StemConv2d(3, 9, 3, groups=3)
