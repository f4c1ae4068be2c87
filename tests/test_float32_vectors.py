"""Biases, and filters of blocks, in float32 beside a bfloat16 input."""

import pytest
import torch
from torch import nn
from torch.library import opcheck

import fastconv
from fastconv import ops, reference
from tests.cuda.emulator import emulated
from tests.helpers import MATRIX_ISAS, channels_last, contiguous, isa
from tests.test_bfloat16 import BF16, BLOCK_ERROR, NO_SQUEEZE, block_of, doubles, packed

ABOVE_ONE = 1 + 2.0**-9  # one in bfloat16


def ones(*shape):
    return channels_last(torch.ones(shape, dtype=BF16))


def minus_one_and(bias, channels=4, out=40):
    """A weight that makes -1 of pixels of ones, and its bias."""
    weight = torch.zeros(out, channels, 1, 1, dtype=BF16)
    weight[:, 0] = -1
    return weight, torch.full((out,), bias)


@pytest.mark.parametrize("name", MATRIX_ISAS)
def test_a_bias_is_not_rounded(name):
    weight, bias = minus_one_and(ABOVE_ONE)
    filters = torch.zeros(40, 1, 3, 3, dtype=BF16)
    filters[:, :, 1, 1] = -1
    centre = filters.expand(40, 4, 3, 3).clone()
    centre[:, 1:] = 0
    expand, project = -weight, -minus_one_and(0.0, channels=40)[0]
    zero = torch.zeros(40)
    with isa(name):
        for pack in (contiguous, ops.pack_pointwise_pairs):
            y = ops.pointwise_conv2d(ones(1, 4, 5, 5), pack(weight), bias)
            assert (y == 2.0**-9).all()
            if pack is not contiguous or name not in ("scalar", "avx2"):  # which widen their input
                y = ops.pointwise_conv2d(ones(1, 4, 5, 5).contiguous(), pack(weight), bias)
                assert (y == 2.0**-9).all()
            block = (filters, bias, pack(project), zero)
            if name != "scalar":  # which rounds between the parts
                y = ops.inverted_residual(ones(1, 4, 5, 5), pack(expand), zero, *block, 1, 1, None)
                assert (y == 2.0**-9).all()
        y = ops.stem_conv2d(ones(1, 4, 5, 5), centre, bias, 1, 1)
        assert (y == 2.0**-9).all()


@pytest.mark.parametrize("name", MATRIX_ISAS)
@pytest.mark.parametrize("pack", [contiguous, ops.pack_depthwise_weight])
def test_filters_of_blocks_are_not_rounded(pack, name):
    filters = torch.zeros(40, 1, 3, 3)
    filters[:, :, 0, 1], filters[:, :, 1, 1] = ABOVE_ONE, -1
    project = -minus_one_and(0.0, channels=40)[0]
    with isa(name):
        block = (pack(filters), None, project, None)
        y = ops.separable_conv2d(ones(1, 40, 6, 5), *block, None, 1, 1, 1, None, None)
    kept = 0.0 if name == "scalar" else 2.0**-9  # the parts take bfloat16
    assert (y[:, :, 1:] == kept).all()


# batch, in, hidden, out, height, width, kernel, stride; the last by parts
@pytest.mark.parametrize("shape", [(1, 16, 96, 24, 14, 14, 3, 2), (2, 7, 20, 7, 8, 8, 3, 1)])
@pytest.mark.parametrize("way", [*MATRIX_ISAS, "reference", "emulated", "by parts"])
def test_blocks(shape, way):
    x, tensors, stride, pad, adds = block_of(shape)
    wide = [t if i in (0, 4) else t.float() for i, t in enumerate(tensors)]
    window = ((stride, stride), (pad,) * 4)
    arguments = (*doubles(x, *tensors), *NO_SQUEEZE, *window, "relu6", adds)
    expected = reference.inverted_residual(*arguments)
    if way == "emulated":
        with emulated():
            y = ops.inverted_residual(x, *wide, stride, pad, "relu6", adds)
    elif way == "reference":
        with fastconv.use_backend("reference"):
            y = ops.inverted_residual(x, *wide, stride, pad, "relu6", adds)
    elif way == "by parts":
        y = ops.inverted_residual(x.requires_grad_(), *wide, stride, pad, "relu6", adds)
    else:
        with isa(way):
            y = ops.inverted_residual(x, *wide, stride, pad, "relu6", adds)
            assert torch.equal(y, ops.inverted_residual(x, *tensors, stride, pad, "relu6", adds))
    assert y.dtype == BF16
    assert (y - expected).abs().max() < BLOCK_ERROR * max(1, expected.abs().max())


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("activation", [None, "relu6", "silu"])
def test_gradient_of_a_bias(activation, layout):
    x, weight = layout(torch.randn(2, 6, 3, 5)).to(BF16), torch.randn(9, 6, 1, 1).to(BF16)
    bias = torch.randn(9).to(BF16).float().requires_grad_()
    narrow = bias.detach().to(BF16).requires_grad_()
    for leaf in (bias, narrow):
        ops.pointwise_conv2d(x, weight, leaf, activation=activation).sum().backward()
    assert bias.grad.dtype == torch.float32
    assert torch.equal(bias.grad, narrow.grad.float())


def test_few_pixels_of_a_classifier():
    x, weight = torch.randn(2, 33, 1, 1).to(BF16), torch.randn(9, 33, 1, 1).to(BF16)
    bias = torch.ones(9)
    y = ops.pointwise_conv2d(x, weight, bias)
    assert torch.equal(y, ops.pointwise_conv2d(x, weight, bias.to(BF16)))


def test_opcheck():
    x, tensors, stride, pad, adds = block_of((1, 8, 24, 8, 9, 9, 3, 1))
    wide = [t.float() if t.dim() == 1 or t.shape[2] > 1 else t for t in packed(tensors)]
    arguments = (*NO_SQUEEZE, (stride, stride), (pad,) * 4, "relu6", adds)
    opcheck(torch.ops.fastconv.inverted_residual.default, (x, *wide, *arguments))
    weight, bias = minus_one_and(0.5, channels=8)
    opcheck(torch.ops.fastconv.pointwise_conv2d.default, (x, weight, bias, None, (1, 1), "relu"))


@pytest.mark.parametrize("of_input", [torch.float16, torch.float32])
@pytest.mark.parametrize("of_bias", [torch.float32, torch.float64, BF16])
def test_other_dtypes_do_not_mix(of_input, of_bias):
    if of_input == of_bias:
        of_input = torch.float64
    x, weight = ones(1, 4, 5, 5).to(of_input), torch.ones(4, 4, 1, 1, dtype=of_input)
    filters, bias = torch.ones(4, 1, 3, 3), torch.ones(4, dtype=of_bias)
    with pytest.raises(RuntimeError, match="dtype of input"):
        ops.pointwise_conv2d(x, weight, bias)
    with pytest.raises(RuntimeError, match="dtype of input"):
        ops.stem_conv2d(x, weight, bias)
    with pytest.raises(RuntimeError, match="dtype of input"):
        ops.separable_conv2d(x, filters.to(of_input), bias, weight, None)
    with pytest.raises(RuntimeError, match="dtype of input"):
        ops.separable_conv2d(x, filters.to(of_bias), None, weight, None)


class Small(nn.Module):
    """A stem, a block, a lone depthwise layer, a bias that another node reads too, a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.filters, self.mix = nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Conv2d(8, 16, 1)
        self.alone, self.shared = nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.Conv2d(16, 16, 1)
        self.classifier = nn.Linear(16, 5)

    def forward(self, x):
        x = self.mix(self.filters(self.stem(x).relu()).relu())
        x = self.alone(x).sigmoid()
        x = self.shared(x).mean((2, 3)) + self.shared.bias
        return self.classifier(x)


@pytest.mark.parametrize("own", [torch.float32, torch.float64, BF16])
def test_optimize_keeps_them(own):
    model, x = Small().eval().to(own), torch.randn(2, 3, 16, 16, dtype=own)
    dtype = None if own == BF16 else BF16
    fast = fastconv.optimize(model, (x,), dtype=dtype, measure=False)
    wide = {name for name, b in fast.lowered.named_buffers() if b.dtype == torch.float32}
    assert wide == {"stem_bias", "filters_weight", "filters_bias", "mix_bias"}
    expected = model.double()(x.double())
    for _ in range(2):  # the second in planned memory
        assert (fast(x) - expected).abs().max() < 0.02 * expected.abs().max()
