"""Both ends of a network, and what is left in between: no copies, no views, packed weights."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastconv
from fastconv.optimize.dense import DenseConv2d
from tests.helpers import channels_last

aten, ours = torch.ops.aten, torch.ops.fastconv


class Small(nn.Module):
    """A stem, a dense convolution, the end of a classifier."""

    def __init__(self, channels: int = 3, pool: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 16, 3, 2, 1)
        self.dense = nn.Conv2d(16, 24, 3, padding=1)
        self.pool = pool or nn.AdaptiveAvgPool2d(1)
        self.hidden = nn.Linear(24, 32)
        self.dropout = nn.Dropout()
        self.linear = nn.Linear(32, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.dense(F.silu(self.stem(x)))))
        return self.linear(self.dropout(F.relu(self.hidden(torch.flatten(x, 1)))))


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((-1, -2), keepdim=True)


def targets(fast: nn.Module) -> list:
    calls = [node for node in fast.graph.graph.nodes if node.op == "call_function"]
    return [node.target for node in calls if node.target is not aten.sym_size.int]


@pytest.mark.parametrize("batch", [1, 3, 16, 17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(1), Mean()], ids=repr)
def test_nothing_is_left_but_the_layers(pool, dtype, batch):
    model = Small(pool=pool).to(dtype).eval()
    x = torch.randn(batch, 3, 15, 15, dtype=dtype)
    fast = fastconv.optimize(model, (x,))
    expected = model.double()(x.double())
    for image in (x, channels_last(x), x.flip(3).flip(3).transpose(2, 3).transpose(2, 3)):
        error = (fast(image) - expected).abs().max() / expected.abs().max()
        assert error < 32 * torch.finfo(dtype).eps
    assert targets(fast) == [ours.stem_conv2d.default, ours.global_avg_pool2d.default]
    rows = [row for row in fast.receipt if row["weight"]]
    kernels = [row["kernel"] for row in rows]
    assert kernels == ["stem_conv2d", "torch", "pointwise_conv2d", "pointwise_conv2d"]
    assert [row["activation"] for row in rows] == ["silu", "relu", "relu", None]


def test_images_of_many_channels_take_one_copy():
    model = Small(channels=5).eval()
    x = torch.randn(2, 5, 9, 9)
    fast = fastconv.optimize(model, (x,))
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
    assert targets(fast) == [aten.contiguous.default, ours.global_avg_pool2d.default]


def test_an_image_that_is_read_twice():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv2d(3, 4, 3, padding=1)
            self.two = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x) + self.two(x) + x.mean()

    model, x = Twice().eval(), torch.randn(2, 3, 9, 9)
    fast = fastconv.optimize(model, (x,))
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
    assert targets(fast).count(aten.contiguous.default) == 2  # of the image and of the result


def test_pooling_to_the_size_that_is_there_is_dropped():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d((6, 6)), nn.Conv2d(8, 4, 3))
    x = torch.randn(1, 3, 8, 8)
    fast = fastconv.optimize(model.eval(), (x,))
    assert aten.adaptive_avg_pool2d.default not in targets(fast)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


def test_linear_layers_may_share_a_weight_and_have_other_inputs():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 8, 1), nn.Linear(8, 8)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            rows = F.relu(self.linear(self.conv(x).amax((2, 3))))
            return self.linear(rows) + self.linear(y).mean(1) + rows

    model, x, y = Shared().eval(), torch.randn(2, 3, 4, 4), torch.randn(2, 5, 8)
    fast = fastconv.optimize(model, (x, y))
    torch.testing.assert_close(fast(x, y), model(x, y))
    activations = [row["activation"] for row in fast.receipt if len(row["weight"] or ()) == 2]
    assert activations == ["relu", None]


def bytes_held(modules: list[nn.Module]) -> int:
    """Of all tensors, those of oneDNN's own order too, each storage once."""
    tensors = [t for m in modules for t in (*m._parameters.values(), *m._buffers.values())]
    tensors = [t for t in tensors if t is not None]
    packed = sum(t.numel() * t.element_size() for t in tensors if t.is_mkldnn)
    plain = {
        t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors if not t.is_mkldnn
    }
    return packed + sum(storage.nbytes() for storage in plain.values())


def test_dense_weights_are_packed_at_the_first_call_and_plain_for_who_asks():
    model, x = Small().eval(), torch.randn(1, 3, 15, 15)
    fast = fastconv.optimize(model, (x,))
    (dense,) = (module for module in fast.modules() if isinstance(module, DenseConv2d))
    assert not dense.weight.is_mkldnn
    expected = fast(x)
    packed = dense.weight
    assert packed.is_mkldnn
    fast(x)
    assert dense.weight is packed
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert torch.equal(other(x), expected)
    assert dense.weight is packed
    (name,) = (key for key in fast.state_dict() if key.endswith("_conv.weight"))
    assert torch.equal(fast.get_buffer(name), model.dense.weight)
    assert torch.equal(fast(x), expected)
    assert not any(value.is_mkldnn for value in nn.Sequential(fast).buffers())
    fast.load_state_dict({**fast.state_dict(), name: torch.zeros_like(model.dense.weight)})
    assert not torch.equal(fast(x), expected)
    double = fast.double()(x.double())
    assert double.dtype == torch.float64


class Tied(nn.Module):
    """The same layers at several places, and equal ones."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.pointwise, self.tied = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
        self.tied.weight = self.pointwise.weight
        self.mixed = nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 16, 3))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = F.relu(self.norm(self.conv(x)))
        return self.mixed(self.tied(F.silu(self.pointwise(x))))


@pytest.mark.parametrize(
    ("model", "size"),
    [
        (Tied(), (16, 9, 9)),
        (fastconv.models.resnet18(), (3, 64, 64)),
        (fastconv.models.mobilenet_v1(width_multiplier=0.5), (3, 32, 32)),
    ],
    ids=["tied", "resnet18", "mobilenet_v1"],
)
def test_no_weight_is_held_twice(model, size):
    model, x = model.eval(), torch.randn(1, *size)
    fast = fastconv.optimize(model, x)
    modules = list(fast.modules())  # before the call: who looks at a packed weight unpacks it
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-3, atol=1e-4)
    # oneDNN may round channels up to 16; a folded norm leaves a bias instead of five vectors.
    assert bytes_held(modules) <= 1.02 * bytes_held(list(model.modules()))


def test_an_optimized_module_compiles():
    model, x = Small().eval(), torch.randn(2, 3, 15, 15)
    fast = fastconv.optimize(model, (x,))
    with torch.no_grad():
        compiled = torch.compile(fast, backend="aot_eager")
        torch.testing.assert_close(compiled(x), fast(x))
