"""dense_conv2d by Winograd's products: weights of pack_winograd_weight."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.library import opcheck

import fastconv
from fastconv import packed_weights, reference
from fastconv.ops import dense_conv2d, pack_dense_weight, pack_winograd_weight
from tests.helpers import (
    ACTIVATIONS,
    ISAS,
    assert_close,
    assert_same_bits_on_any_threads,
    channels_last,
    contiguous,
    isa,
    reaches,
)
from tests.test_dense_conv2d import Bottleneck
from tests.test_optimize import assert_same, kernels, randomize

# An output is a sum of 36 C products by the transforms' constants. Its error, by that bound of
# assert_close for the 9 C products of the definition, stays below this: the transforms of inputs
# and weights round values of up to some 10 times the inputs, and those of the outputs add sums of
# up to 4 times theirs.
SCALE = 30


PACKS = [pack_winograd_weight, partial(pack_winograd_weight, at_points=False)]
by_pack = pytest.mark.parametrize("pack", PACKS, ids=["points", "panels"])


def close(actual, expected, channels):
    assert_close(actual, expected, terms=9 * channels + 2, scale=SCALE)


def tensors(channels, out_channels, size, batch=2):
    x = channels_last(torch.randn(batch, channels, *size))
    weight = torch.randn(out_channels, channels, 3, 3) * (9 * channels) ** -0.5
    return x, weight, torch.randn(out_channels)


def expected(x, weight, bias, residual, padding=(1, 1, 1, 1), activation=None):
    wide = (None if t is None else t.double() for t in (x, weight, bias, residual))
    return reference.dense_conv2d(*wide, (1, 1), padding, (1, 1), activation)


# channels, out_channels, (height, width), padding: layers of the networks small, then maps below a
# tile and beside it, channels beside a vector and a panel, padding of several kinds.
CASES = [
    (16, 32, (8, 12), (1, 1, 1, 1)),
    (32, 64, (14, 14), (1, 1, 1, 1)),
    (24, 40, (7, 7), (1, 1, 1, 1)),
    (17, 33, (9, 13), (0, 0, 0, 0)),
    (5, 7, (3, 3), (1, 1, 1, 1)),
    (3, 1, (1, 1), (1, 1, 1, 1)),
    (33, 100, (5, 30), (1, 1, 1, 1)),
    (8, 16, (6, 10), (2, 1, 0, 3)),
    (2, 9, (3, 2), (4, 5, 6, 7)),  # tiles of padding alone
    (128, 48, (4, 4), (1, 1, 1, 1)),  # neighbours a part of a page apart
]


@by_pack
@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values(case, name, pack):
    channels, out_channels, size, padding = case
    x, weight, bias = tensors(channels, out_channels, size)
    packed = pack(weight)
    residual = channels_last(torch.randn(expected(x, weight, bias, None, padding).shape))
    for added, activation in ((residual, "relu"), (None, None), (residual, "silu")):
        with isa(name):
            y = dense_conv2d(x, packed, bias, added, 1, padding, 1, activation)
        close(y, expected(x, weight, bias, added, padding, activation), channels)
        assert channels_last(y).stride() == y.stride()


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation, name):
    x, weight, _ = tensors(16, 32, (9, 9))
    with isa(name):
        y = dense_conv2d(x, pack_winograd_weight(weight), None, None, 1, 1, 1, activation)
    close(y, expected(x, weight, None, None, activation=activation), 16)


@by_pack
@pytest.mark.parametrize("height", range(1, 10))
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 8, 9])
def test_edges_of_the_tiles(height, width, pack):
    x, weight, bias = tensors(4, 8, (height, width), batch=3)
    for name in ISAS:
        with isa(name):
            y = dense_conv2d(x, pack(weight), bias, None, 1, 1)
        close(y, expected(x, weight, bias, None), 4)


@by_pack
@pytest.mark.parametrize(("batch", "size"), [(1, (60, 56)), (7, (15, 17)), (40, (7, 7))])
def test_groups_of_tiles_and_blocks_of_panels(batch, size, pack):
    """More than is transformed at a time, within an image and across images."""
    x, weight, bias = tensors(96, 320, size, batch)
    residual = channels_last(torch.randn(batch, 320, *size))
    y = dense_conv2d(x, pack(weight), bias, residual, 1, 1, 1, "relu")
    close(y, expected(x, weight, bias, residual, activation="relu"), 96)


@by_pack
@pytest.mark.parametrize("channels", [64, 512])
def test_error_by_the_largest_output(channels, pack):
    """What pack_winograd_weight promises: within ten times the error of the definition's sums."""
    x = channels_last(torch.randn(2, channels, 14, 14)).relu()
    weight = torch.randn(64, channels, 3, 3) * (2 / (9 * channels)) ** 0.5
    exact = F.conv2d(x.double(), weight.double(), padding=1)

    def error(packed):
        y = dense_conv2d(x, packed, None, None, 1, 1)
        return ((y - exact).abs().max() / exact.abs().max()).item()

    ours, direct = error(pack(weight)), error(pack_dense_weight(weight))
    assert 0 < direct < 3e-6
    assert ours < 6e-6
    assert ours < 10 * direct


def test_large_and_small_numbers_scale():
    x, weight, bias = tensors(32, 32, (8, 8))
    packed = pack_winograd_weight(weight)
    y = dense_conv2d(x, packed, bias, None, 1, 1)
    for factor in (2.0**-90, 2.0**90):
        torch.testing.assert_close(
            dense_conv2d(x * factor, packed, bias * factor, None, 1, 1), y * factor
        )


def test_infinity_and_nan_reach_only_tiles_that_read_them():
    x, weight, _ = tensors(8, 32, (16, 16), batch=1)
    for value in (float("inf"), float("nan")):
        x[0, 3, 9, 9] = value  # read by outputs 8 to 10: of the third tile of either side
        y = dense_conv2d(x, pack_winograd_weight(weight), None, None, 1, 1, 1, "relu")
        assert y[0, :, 8:11, 8:11].isnan().all()
        y[..., 8:12, 8:12] = 0
        assert y.isfinite().all()


def test_the_weight_comes_back():
    _, weight, bias = tensors(6, 40, (1, 1))
    packed = pack_winograd_weight(weight)
    assert packed.shape == (1, 6, 6, 2, 6, 32)
    back = packed_weights.unpack_dense(packed, bias)
    torch.testing.assert_close(back, weight, rtol=1e-6, atol=1e-7)
    exact = pack_winograd_weight(weight, at_points=False)
    assert exact.shape == (1, 2, 3, 3, 6, 32)
    assert torch.equal(packed_weights.unpack_dense(exact, bias), weight)
    assert packed_weights.unpack_dense(packed, None).shape == (64, 6, 3, 3)


@by_pack
@pytest.mark.parametrize("size", [30, 7])
def test_same_bits_on_any_threads(size, pack):
    x, weight, bias = tensors(64, 96, (size, size), batch=3)
    packed = pack(weight)
    assert_same_bits_on_any_threads(partial(dense_conv2d, x, packed, bias, None, 1, 1, 1, "silu"))


@by_pack
def test_results_do_not_depend_on_the_batch(pack):
    x, weight, bias = tensors(32, 64, (14, 14), batch=9)
    call = partial(dense_conv2d, weight=pack(weight), bias=bias, padding=1)
    assert torch.equal(torch.cat([call(image) for image in x.split(1)]), call(x))


def test_variant_strides_and_out():
    x, weight, bias = tensors(8, 32, (9, 9))
    packed = pack_winograd_weight(weight)
    with reaches("dense_conv2d.winograd"):
        y = dense_conv2d(contiguous(x), packed, bias, None, 1, 1)
    close(y, expected(x, weight, bias, None), 8)
    out = torch.full_like(y, float("nan"))
    assert dense_conv2d(x, packed, bias, None, 1, 1, out=out) is out
    assert torch.equal(out, y)
    assert torch.equal(dense_conv2d(x[0], packed, bias, padding="same"), y[0])
    assert dense_conv2d(x[:0], packed).shape == (0, 32, 7, 7)


@by_pack
def test_gradients_and_opcheck(pack):
    x, weight, bias = tensors(5, 9, (6, 7))
    packed = pack(weight)
    residual = torch.randn(2, 9, 6, 7)
    ours = [t.clone().requires_grad_() for t in (x, packed, bias, residual)]
    theirs = [t.detach().double().requires_grad_() for t in ours]
    dense_conv2d(*ours, 1, 1, 1, "silu").sum().backward()
    window = (1, 1), (1, 1, 1, 1), (1, 1)
    reference.dense_conv2d(*theirs, *window, "silu").sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a.grad, b.grad, terms=1000, scale=8)
    op = torch.ops.fastconv.dense_conv2d.default
    opcheck(op, (x, packed, bias, residual, [1, 1], [1, 1, 1, 1], [1, 1], "relu"))


@by_pack
def test_flops_are_those_of_the_definition(pack):
    x, weight, bias = tensors(8, 40, (9, 9))
    packed = pack(weight)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        dense_conv2d(x, packed, bias)
        ours = counter.get_total_flops()
        F.conv2d(x, weight)
    assert counter.get_total_flops() == 2 * ours


X, PACKED = torch.ones(1, 3, 8, 8), pack_winograd_weight(torch.ones(4, 3, 3, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X[:, :2], PACKED), "weight of shape"),
        ((X, PACKED[:, :5]), "weight of shape"),
        ((X, PACKED, torch.ones(5)), "bias"),
        ((X, PACKED, None, None, 2), "stride and dilation 1"),
        ((X, PACKED, None, None, 1, 0, 2), "stride and dilation 1"),
        ((X.double(), PACKED.double()), "float32"),
        ((X[:, :, :2], PACKED), "no larger than the padded input"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(RuntimeError, match=message):
        dense_conv2d(*arguments)


def test_only_3x3_weights_have_such_an_order():
    with pytest.raises(RuntimeError, match=r"in_channels, 3, 3\), got \(4, 3, 5, 5\)"):
        pack_winograd_weight(torch.ones(4, 3, 5, 5))


def reasons(fast):
    return [row.get("reason") for row in fast.receipt if row["kernel"] == "dense_conv2d"]


def test_optimized_networks_call_it_where_there_are_tiles_enough():
    model = randomize(nn.Sequential(Bottleneck(32), Bottleneck(32)))
    for batch, size in ((1, 32), (4, 14)):
        x = torch.randn(batch, 32, size, size)
        fast = fastconv.optimize(model, x, measure=False)
        with reaches("dense_conv2d.winograd"):
            assert_same(model, fast, x)
        assert_same(model, fast, torch.randn(3, 32, size, size))
        assert kernels(fast) == ["pointwise_conv2d", "dense_conv2d", "dense_conv2d"] * 2
        assert reasons(fast) == ["by Winograd's products"] * 4
        rows = {b.shape[2] for b in fast.graph.buffers() if b.dim() == 6}
        assert rows == {3 if batch == 1 else 6}
    for settings in ({"winograd": False}, {"dtype": torch.bfloat16}, {"any_size": True}):
        other = fastconv.optimize(model, x[:1], measure=False, **settings)
        assert "by Winograd's products" not in reasons(other)
    few = fastconv.optimize(model, torch.randn(1, 32, 7, 7), measure=False)
    assert reasons(few) == [None] * 4


def test_one_weight_for_two_windows():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(32, 32, 3, 3) / 17)

        def forward(self, x):
            return F.conv2d(F.conv2d(x, self.weight, padding=1), self.weight, dilation=2)

    model, x = Twice().eval(), torch.randn(1, 32, 20, 20)
    fast = fastconv.optimize(model, x, measure=False)
    assert_same(model, fast, x)
    assert reasons(fast) == ["by Winograd's products", None]
    assert sorted(b.dim() for b in fast.graph.buffers()) == [5, 6]


@pytest.mark.parametrize("to", [torch.float16, torch.float64])
def test_weights_that_move_lie_as_all_kernels_read_them(to):
    model = nn.Sequential(nn.Conv2d(32, 40, 3), nn.Conv2d(40, 64, 3, bias=False)).eval()
    x = torch.randn(1, 32, 24, 24)
    fast = fastconv.optimize(model, x, measure=False)
    assert [b.shape[2] for b in fast.graph.buffers() if b.dim() == 6] == [3, 3]
    wanted = model.to(to)(x.to(to))
    torch.testing.assert_close(fast.to(to)(x.to(to)), wanted, rtol=1e-3, atol=1e-3)
    assert {b.dim() for b in fast.graph.buffers()} == {1, 4}
