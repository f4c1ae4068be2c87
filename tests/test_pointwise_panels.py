"""Weights of 1x1 convolutions in panels, as optimize packs them on the CPU."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.library import opcheck

import fastconv
from fastconv import ops, packed_weights, reference
from fastconv.ops import pack_pointwise_panels, pointwise_conv2d
from tests.helpers import (
    DTYPES,
    ISAS,
    assert_close,
    assert_same_bits_on_any_threads,
    channels_last,
    contiguous,
    isa,
)

# Output channels about the borders of a panel of 32, of its half, and of the panels of AVX2.
COLUMNS = [1, 15, 16, 17, 31, 32, 33, 39, 40, 47, 48, 49, 63, 64, 65, 79, 80, 81, 96, 128, 130]
# in, hidden, out channels, size
BLOCKS = [(8, 40, 24, 9), (6, 49, 70, 7), (16, 33, 97, 14), (9, 48, 96, 8), (4, 144, 64, 15)]


@pytest.mark.parametrize("out_channels", COLUMNS)
def test_a_packed_weight_unpacks_to_itself(out_channels):
    weight, x = torch.randn(out_channels, 5, 1, 1), torch.randn(1, 5, 2, 2)
    packed = pack_pointwise_panels(weight)
    assert packed.shape == (1, out_channels, 5)
    assert packed.is_contiguous()
    assert torch.equal(packed_weights.unpack_pointwise(x, packed), weight)
    assert sum(packed_weights.panels_of(out_channels)) == out_channels
    first = packed.flatten()[: 5 * min(32, out_channels)]
    if out_channels >= 64:
        assert torch.equal(first.view(5, 32), weight[:32, :, 0, 0].t())


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("out_channels", COLUMNS)
def test_values(out_channels, layout, dtype, name):
    for size, stride in (((2, 19, 5, 7), (1, 1)), ((1, 6, 4, 3), (2, 1)), ((3, 9, 1, 1), (1, 1))):
        x = layout(torch.randn(size).to(dtype))
        weight = (torch.randn(out_channels, size[1], 1, 1) / size[1] ** 0.5).to(dtype)
        bias = torch.randn(out_channels).to(dtype)
        residual = layout(torch.randn(size[0], out_channels, -(-size[2] // stride[0]), size[3]))
        rest = bias, residual.to(dtype), stride
        with isa(name):
            y = pointwise_conv2d(x, pack_pointwise_panels(weight), *rest, "relu6")
            as_given = pointwise_conv2d(x, weight, *rest, "relu6")
        exact = (t.double() for t in (x, weight, *rest[:2]))
        expected = reference.pointwise_conv2d(*exact, stride, "relu6")
        assert_close(y, expected, terms=size[1] + 2, scale=4)
        assert y.stride() == as_given.stride()
        if dtype in (torch.float32, torch.float64) and size[2] > 1:
            assert torch.equal(y, as_given)  # a chain of fma in the order of the channels


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("expands", [True, False])
@pytest.mark.parametrize("shape", BLOCKS)
def test_blocks(shape, expands, name):
    channels, hidden, out, size = shape
    hidden = hidden if expands else channels
    x = channels_last(torch.randn(2, channels, size, size))
    expand = (torch.randn(hidden, channels, 1, 1), torch.randn(hidden))
    filters = (torch.randn(hidden, 1, 3, 3), torch.randn(hidden))
    project = (torch.randn(out, hidden, 1, 1), torch.randn(out))
    squeeze = ops.SqueezeExcitation(
        torch.randn(4, hidden, 1, 1), None, torch.randn(hidden, 4, 1, 1), None
    )
    for images, kwargs in ((x, {}), (x[:1], {}), (x, {"squeeze": squeeze}), (x.double(), {})):
        results = []
        for pack in (lambda weight: weight, pack_pointwise_panels):
            tensors = [(pack(expand[0]), expand[1]), filters, (pack(project[0]), project[1])]
            flat = [t.to(images.dtype) for pair in tensors[0 if expands else 1 :] for t in pair]
            if kwargs and images.dtype == torch.float32:
                kwargs = {"squeeze": squeeze}
            op = ops.inverted_residual if expands else ops.separable_conv2d
            with isa(name):
                results.append(op(images, *flat, padding=1, activation="relu6", **kwargs))
        assert_close(
            results[1], results[0].double(), terms=hidden + 2, scale=results[0].abs().max()
        )


def test_same_bits_on_any_threads():
    x, weight = channels_last(torch.randn(2, 70, 14, 14)), torch.randn(200, 70, 1, 1)
    packed = pack_pointwise_panels(weight)
    assert_same_bits_on_any_threads(lambda: pointwise_conv2d(x, packed, activation="relu"))


def test_opcheck():
    op = torch.ops.fastconv.pointwise_conv2d.default
    packed = pack_pointwise_panels(torch.randn(33, 4, 1, 1))
    opcheck(op, (channels_last(torch.randn(2, 4, 3, 3)), packed, None, None, (2, 1), "silu"))


def test_the_gradient_of_the_input():
    x, weight = torch.randn(2, 7, 5, 5, requires_grad=True), torch.randn(49, 7, 1, 1)
    pointwise_conv2d(x, pack_pointwise_panels(weight), activation="relu").square().sum().backward()
    twin = x.detach().requires_grad_()
    pointwise_conv2d(twin, weight, activation="relu").square().sum().backward()
    assert torch.allclose(x.grad, twin.grad, rtol=1e-4, atol=1e-4)


def test_what_is_refused():
    x, packed = torch.randn(1, 8, 3, 3), pack_pointwise_panels(torch.randn(33, 6, 1, 1))
    with pytest.raises(RuntimeError, match="weight"):
        pointwise_conv2d(x, packed)
    with pytest.raises(RuntimeError, match="pack_pointwise_panels"):
        pointwise_conv2d(x, torch.randn(1, 8, 33).transpose(1, 2))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(8, 49, 1)
        self.middle = nn.Conv2d(49, 49, 3, padding=1, groups=49)
        self.last = nn.Conv2d(49, 70, 1)
        self.end = nn.Conv2d(70, 33, 1, stride=2)

    def forward(self, x):
        return self.end(self.last(self.middle(self.first(x).relu()).relu()).relu())


def test_an_optimized_module_is_copied_saved_and_loaded():
    net, x = Net().eval(), torch.randn(2, 8, 9, 9)
    fast = fastconv.optimize(net, (x,), measure=False)
    assert any(buffer.dim() == 3 for buffer in fast.buffers())
    with torch.no_grad():
        expected = fast(x)
        assert torch.allclose(expected, net(x), atol=1e-4)
        assert torch.equal(copy.deepcopy(fast)(x), expected)
        file = io.BytesIO()
        torch.save(fast, file)
        file.seek(0)
        assert torch.equal(torch.load(file, weights_only=False)(x), expected)
        other = fastconv.optimize(Net().eval(), (x,), measure=False)
        other.load_state_dict(fast.state_dict())
        assert torch.equal(other(x), expected)
        exported = torch.export.export(fast, (x,)).module()
        assert torch.allclose(exported(x), expected, atol=1e-5)
        channels = fast.to(memory_format=torch.channels_last)
        assert torch.equal(channels(x), expected)
        with fastconv.use_backend("reference"):
            assert torch.allclose(fast(x), expected, atol=1e-4)
        wide = fast.double()(x.double())
        assert torch.allclose(wide.float(), expected, atol=1e-4)
