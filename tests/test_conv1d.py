"""Convolutions of sequences: as a function, a layer, swapped, optimized and compiled."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastconv
from fastconv.ops import conv1d
from tests.single_layers import Sequences
from tests.styles import build

X = torch.randn(2, 8, 21)
LAYERS = {
    "depthwise": {"groups": 8, "kernel_size": 5, "padding": 2, "stride": 2},
    "dilated": {"groups": 8, "kernel_size": 4, "dilation": 3, "padding": "same"},
    "pointwise": {"kernel_size": 1, "stride": 3},
    "same": {"kernel_size": 1, "padding": "same"},
    "dense": {"kernel_size": 3, "padding": 1},
    "grouped": {"kernel_size": 3, "groups": 2},
    "reflected": {"groups": 8, "kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_torchs(name):
    theirs = nn.Conv1d(8, 16, **LAYERS[name]).double()
    ours = fastconv.nn.Conv1d(8, 16, **LAYERS[name], activation="relu").double()
    ours.load_state_dict(theirs.state_dict())
    assert repr(ours) == repr(theirs)[:-1] + ", activation='relu')"
    for x in (X.double(), X[0].double()):
        results = []
        for layer in (theirs, ours):
            leaf = x.clone().requires_grad_()
            y = layer(leaf).relu()
            y.square().sum().backward()
            results.append((y, leaf.grad, [p.grad.clone() for p in layer.parameters()]))
            layer.zero_grad()
        torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((X, torch.randn(8, 1, 3), None, 0, 0, 1, 8), RuntimeError),
        ((X, torch.randn(8, 1, 3), None, 2, "same", 1, 8), RuntimeError),
        ((X, torch.randn(4, 9, 1)), RuntimeError),
        ((X, torch.randn(8, 1, 3), None, 1.5, 0, 1, 8), TypeError),
        ((X.tolist(), torch.randn(4, 8, 1)), TypeError),
    ],
)
def test_bad_input_raises_what_torch_raises(arguments, error):
    for function in (F.conv1d, conv1d):
        with pytest.raises(error):
            function(*arguments)


class Chain(nn.Module):
    """Padding, norm, activation, a sum and a gate between convolutions; a computed weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(8, 12, 5, 2, 2)
        self.inner = Sequences(12, 4)
        self.computed = nn.utils.parametrizations.weight_norm(nn.Conv1d(12, 6, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = self.inner(x)
        return self.computed(x * torch.sigmoid(x)).mean(1)


KERNELS = ["torch", "depthwise_conv2d", "pointwise_conv2d", "pointwise_conv2d"]


@pytest.mark.parametrize("swapped", [False, True])
def test_optimize_takes_a_chain_as_one_of_images(swapped):
    model = Chain().eval()
    nn.init.normal_(model.inner.norm.running_mean)
    fast = fastconv.optimize(fastconv.swap_(copy.deepcopy(model)) if swapped else model, X)
    rows = [row for row in fast.receipt if row["weight"]]
    assert [row["kernel"] for row in rows] == KERNELS
    assert [row["layer"] for row in rows][:3] == ["first", "inner.depthwise", "inner.pointwise"]
    assert rows[1]["folded"] == ["inner.norm"]
    assert [row["activation"] for row in rows][:2] == ["relu", "silu"]
    assert rows[2]["residual"]
    targets = {node.target for node in fast.graph.graph.nodes}
    assert not targets & {torch.ops.aten.pad.default, torch.ops.aten.constant_pad_nd.default}
    for x in (X, torch.randn(3, 21, 8).transpose(1, 2)):
        with torch.no_grad():
            torch.testing.assert_close(fast(x), model(x))


def test_an_open_length():
    model = build("Sequence").eval()
    fast = fastconv.optimize(model, torch.randn(2, 6, 20), any_size=True)
    for length in (20, 33):
        x = torch.randn(3, 6, length)
        torch.testing.assert_close(fast(x), model(x))
        assert fast(x).stride() == model(x).stride()


def test_swapped_and_restored():
    model = Chain()
    classes = [type(module) for module in model.modules()]
    swapped = fastconv.swap_(copy.deepcopy(model))
    ours = [name for name, m in swapped.named_modules() if isinstance(m, fastconv.nn.Conv1d)]
    assert ours == ["inner.depthwise", "inner.pointwise", "computed"]
    torch.testing.assert_close(swapped(X), copy.deepcopy(model)(X))
    restored = fastconv.restore_(swapped)
    assert [type(module).__name__ for module in restored.modules()] == [
        kind.__name__ for kind in classes
    ]


def test_the_compile_backend_takes_sequences():
    model = Chain().eval()
    compiled = torch.compile(model, backend="fastconv")
    with torch.no_grad():
        for batch in (2, 3):
            x = torch.randn(batch, 8, 21)
            torch.testing.assert_close(compiled(x), model(x))
