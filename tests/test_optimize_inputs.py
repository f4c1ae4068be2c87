"""What optimize is given: models in a state it refuses, inputs of other sizes, named arguments."""

import copy
import importlib
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastconv
from fastconv.optimize import OptimizedModule
from tests.helpers import channels_last
from tests.styles import build


def block() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)
    ).eval()


X = torch.randn(2, 3, 9, 9)


def same(model: nn.Module, fast: nn.Module, *inputs: Tensor, **named: Tensor) -> None:
    with torch.no_grad():
        expected = model(*inputs, **named)
        torch.testing.assert_close(fast(*inputs, **named), expected, rtol=1e-4, atol=1e-5)


def refuses(error: type[Exception], match: str, model: nn.Module, *arguments, **settings) -> None:
    with pytest.raises(error, match=match):
        fastconv.optimize(model, *arguments, **settings)


def test_one_layer_in_training_is_refused():
    model = block()
    model[1].train()
    refuses(RuntimeError, "eval mode", model, X)
    assert model[1].training


def test_examples_that_the_model_cannot_take_raise_its_own_error():
    refuses(RuntimeError, "to have 3 channels, but got 4", block(), torch.randn(1, 4, 9, 9))
    refuses(RuntimeError, "same dtype|should be the same|expected scalar type", block(), X.double())
    refuses(TypeError, "too many positional", block(), (X, X))
    refuses(TypeError, "unexpected keyword", block(), X, example_kwargs={"mask": X})
    refuses(TypeError, "missing a required argument", block(), ())


def test_parameters_on_several_devices_are_refused():
    model = block()
    model[3].to("meta")
    refuses(RuntimeError, "on one device that holds them, got cpu and meta", model, X)
    refuses(RuntimeError, "got meta", block().to("meta"), X.to("meta"))


def test_lazy_layers_are_refused_and_stay_lazy():
    model = nn.Sequential(nn.LazyConv2d(4, 3)).eval()
    refuses(RuntimeError, "lazy layers are initialised", model, X)
    assert model[0].has_uninitialized_params()


class Mixed(nn.Module):
    """Convolutions in bfloat16, the head in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = block().bfloat16(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.bfloat16()).float().mean((2, 3)))


def test_parameters_of_several_dtypes_keep_theirs_and_refuse_another():
    model = Mixed().eval()
    fast = fastconv.optimize(model, X)
    assert isinstance(fast, OptimizedModule)
    torch.testing.assert_close(fast(X), model(X), rtol=0.03, atol=0.03)
    refuses(RuntimeError, "of one dtype to compute in", model, X, torch.bfloat16)


class Casting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = block(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.float()).float().mean((2, 3)).to(torch.float32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_casts_to_the_dtype_that_is_there_do_not_bind_it(dtype):
    model = Casting().eval()
    fast = fastconv.optimize(model, X, dtype)
    assert isinstance(fast, OptimizedModule)
    assert fast(X).dtype == dtype
    torch.testing.assert_close(fast(X).float(), model(X), rtol=0.03, atol=0.03)


def test_hooks_that_observe_a_layer_are_kept_by_swapping():
    model, seen = block(), []
    handle = model[0].register_forward_hook(lambda *_: seen.append("conv"))
    fast = fastconv.optimize(model, X)
    assert seen == []  # not for the sake of a question
    assert fast.receipt[0]["kernel"] == "swapped"
    assert "forward hooks observe '0'" in fast.receipt[0]["reason"]
    same(model, fast, X)
    assert seen == ["conv", "conv"]
    assert len(model[0]._forward_hooks) == 1
    handle.remove()
    assert isinstance(fastconv.optimize(model, X), OptimizedModule)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_hooks_of_torch_that_compute_a_weight_are_captured():
    model = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), nn.Conv2d(4, 4, 1)).eval()
    before = copy.deepcopy(model.state_dict())
    fast = fastconv.optimize(model, X)
    assert isinstance(fast, OptimizedModule)
    same(model, fast, X)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


class Remembering(nn.Module):
    """Writes to a list, an attribute and a table of positions that grows with the image."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.calls, self.sizes = block(), 0, []
        self.table: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.sizes.append(x.shape)
        if self.table is None or self.table.shape[-1] != x.shape[-1]:
            self.table = torch.arange(x.shape[-1], dtype=x.dtype)
        return self.body(x + self.table)


def test_attributes_are_not_written_to():
    model = Remembering().eval()
    fast = fastconv.optimize(model, X)
    assert (model.calls, model.sizes, model.table) == (0, [], None)
    same(model, fast, X)


def test_frozen_parameters_stay_frozen():
    model = block()
    model[0].weight.requires_grad_(False)
    fastconv.optimize(model, X, torch.bfloat16, measure=0.01)
    assert [p.requires_grad for p in model.parameters()] == [False, *[True] * 5]
    assert {p.dtype for p in model.parameters()} == {torch.float32}


class ByBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.shape[0] > 1 else -self.conv(x)


def test_a_batch_that_takes_another_way_is_refused():
    model = ByBatch().eval()
    several = fastconv.optimize(model, X)
    same(model, several, torch.randn(5, 3, 9, 9))
    with pytest.raises(RuntimeError, match="take another way through the model"):
        several(X[:1])
    same(model, fastconv.optimize(model, X[:1]), X[:1])


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("of", ["model", "images", "both"])
def test_channels_last_leaves_the_batch_open(of, batch):
    model, x = block(), torch.randn(batch, 3, 9, 9)
    if of != "images":
        model.to(memory_format=torch.channels_last)
    if of != "model":
        x = channels_last(x)
    fast = fastconv.optimize(model, x)
    for images in (1, 2, 7):
        same(model, fast, channels_last(torch.randn(images, 3, 9, 9)))


class Scaled(nn.Module):
    """By another number for one image: the same ops, not the same way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * (3.0 if x.shape[0] == 1 else 2.0)


@pytest.mark.parametrize("batch", [1, 4])
def test_another_number_is_another_way(batch):
    model, x = Scaled().eval(), channels_last(torch.randn(4, 3, 9, 9))
    fast = fastconv.optimize(model, x[:batch])
    same(model, fast, x[:batch])
    with pytest.raises(RuntimeError, match=r"take another way|expected inputs like"):
        fast(x[: 5 - batch])


def test_arguments_by_name_in_any_order():
    model = build("Arguments").eval()
    args, named = model.example(2)
    mask = torch.rand(2, 8, 16, 16)
    fast = fastconv.optimize(model, args, example_kwargs={**named, "mask": mask})
    assert isinstance(fast, OptimizedModule)
    for other in (fast, copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        same(model, other, *args, mask=mask, **named)
        same(model, other, pair=args[0], scale=args[1], **named, mask=mask)
    with pytest.raises(RuntimeError, match="expected inputs like"):
        fast(*args, **named)
    with pytest.raises(TypeError, match="missing a required argument: 'bias'"):
        fast(*args, mask=mask)
    on_first_call = fastconv.optimize(model)
    same(model, on_first_call, *args, **named)


class Same(nn.Module):
    """Padding of a stride 2 that depends on the size, as in TensorFlow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = (max((-(-size // 2) - 1) * 2 + 3 - size, 0) for size in x.shape[2:])
        return self.last(self.conv(F.pad(x, (w // 2, w - w // 2, h // 2, h - h // 2))))


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        (block(), [(9, 9), (5, 17), (1, 1)]),
        (build("UNet").eval(), [(16, 16), (24, 32)]),
        (build("SqueezeExcite").eval(), [(16, 16), (9, 21)]),
        (build("Shuffle").eval(), [(16, 16), (23, 8)]),
        (Same().eval(), [(16, 16), (15, 16), (21, 7)]),
    ],
    ids=["block", "UNet", "SqueezeExcite", "Shuffle", "Same"],
)
def test_any_size(model, sizes):
    fast = fastconv.optimize(model, torch.randn(1, 3, *sizes[0]), any_size=True)
    assert isinstance(fast, OptimizedModule)
    for batch, size in [(1, sizes[0]), *((3, size) for size in sizes), (1, sizes[-1])]:
        x = torch.randn(batch, 3, *size)
        for _ in range(2):  # also in planned memory
            same(model, fast, x)


def test_a_size_that_does_not_fit_is_refused():
    fast = fastconv.optimize(build("UNet").eval(), torch.randn(1, 3, 16, 16), any_size=True)
    with pytest.raises(RuntimeError, match="take another way"):
        fast(torch.randn(1, 3, 18, 18))
    with pytest.raises(RuntimeError, match=r"expected inputs like \[\('N', 3, 'H', 'W'\)\]"):
        fast(torch.randn(1, 4, 16, 16))
    # A classifier of rows ties the size to that of the example.
    tied = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 7 * 7, 2)).eval()
    fast = fastconv.optimize(tied, X, any_size=True)
    same(tied, fast, X)
    with pytest.raises(RuntimeError, match="take another way"):
        fast(torch.randn(2, 3, 10, 10))


class Twice(nn.Module):
    """A dense convolution at two places, with and without an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        return self.conv(F.relu(self.conv(self.norm(self.conv(x)))))


def test_a_shared_dense_convolution_keeps_its_activations_apart():
    model, x = Twice().eval(), torch.randn(2, 16, 9, 9)
    nn.init.normal_(model.norm.running_mean)
    fast = fastconv.optimize(model, x)
    assert isinstance(fast, OptimizedModule)
    assert [row["activation"] for row in fast.receipt] == ["relu", None, "relu", None]
    same(model, fast, x)


def test_a_graph_that_computes_something_else_does_not_stand_for_the_model(monkeypatch):
    def breaks(graph):
        for node in graph.graph.nodes:
            if node.target is torch.ops.aten.relu.default:
                node.target = torch.ops.aten.silu.default

    module = importlib.import_module("fastconv.optimize.optimize")
    monkeypatch.setattr(module, "CANONICAL", (breaks, *module.CANONICAL))
    model = block()
    fast = fastconv.optimize(model, X)
    assert fast.receipt[0]["kernel"] == "swapped"
    assert "gave other results" in fast.receipt[0]["reason"]
    same(model, fast, X)
