"""torch.compile of swapped and optimized networks, and the backend "fastconv"."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import fastconv
import fastconv.compile
from tests.small_network import SmallNetwork, images, plain_and_swapped


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch.compiler.reset()


@pytest.fixture
def optimized(monkeypatch) -> list[nn.Module]:
    """What the backend got of fastconv.optimize, in order."""
    results = []

    def recorded(*arguments, **settings):
        results.append(fastconv.optimize(*arguments, **settings))
        return results[-1]

    monkeypatch.setattr(fastconv.compile, "optimize", recorded)
    return results


def ours(model: nn.Module, **options) -> nn.Module:
    return torch.compile(model, backend="fastconv", fullgraph=True, **options)


def step(model: nn.Module, compiled: nn.Module, x: Tensor) -> list[Tensor]:
    """The output, the gradients and the buffers after one step of training."""
    model.zero_grad()
    output = compiled(x)
    output.square().sum().backward()
    gradients = [p.grad for p in model.parameters()]
    return [output.detach(), *gradients, *(b.clone() for b in model.buffers())]


@pytest.mark.parametrize("dynamic", [None, True])
def test_inference_is_optimized_for_any_batch(optimized, dynamic):
    for model in plain_and_swapped():
        torch.compiler.reset()
        compiled = ours(model, dynamic=dynamic)
        for size in (12, 14):
            for batch in (4, 4, 3, 2):
                x = images(batch, size)
                with torch.no_grad():
                    assert_close(compiled(x), model(x))
    rows = [row for result in optimized for row in result.receipt if row["weight"]]
    kernels = {row["kernel"] for row in rows}
    assert kernels == {"stem_conv2d", "pointwise_conv2d", "separable_conv2d", "torch"}
    # Once a size, and dynamo's first graph is for the very batch where it was not told otherwise.
    assert len(optimized) <= 2 * (2 if dynamic else 4)


def test_changed_weights_are_folded_again_until_it_is_training(optimized):
    model, _ = plain_and_swapped()
    compiled, x = ours(model), images()
    with torch.inference_mode():
        assert_close(compiled(x), model(x))
        assert_close(compiled(x), model(x))
    assert len(optimized) == 1
    with torch.no_grad():
        compiled(x)
        before = len(optimized)
        model.head[0] = nn.Conv2d(8, 12, 3, padding=1)
        assert_close(compiled(x), model(x))
        model.head[0].weight.data = torch.randn_like(model.head[0].weight)
        assert_close(compiled(x), model(x))
        for _ in range(5):
            model.block.layers[1].running_mean.add_(0.5)
            assert_close(compiled(x), model(x))
    assert len(optimized) <= before + fastconv.compile.MOST_CHANGES


class Writes(nn.Module):
    """Writes to its buffer and to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return self.conv(x.mul_(2))


class WritesToItsInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.relu_())


@pytest.mark.parametrize(
    "build", [Writes, WritesToItsInput, lambda: SmallNetwork().train()], ids=["both", "input", "bn"]
)
def test_what_a_graph_writes_is_written_once(build):
    model = build()
    compiled = ours(copy.deepcopy(model))
    with torch.no_grad():
        for x in (images(), images()):
            mine, theirs = x.clone(), x.clone()
            assert_close(compiled(mine), model(theirs))
            assert_close(mine, theirs)
    assert_close(
        compiled.state_dict(), {f"_orig_mod.{k}": v for k, v in model.state_dict().items()}
    )


@pytest.mark.parametrize("then", ["eager", "aot_eager"])
def test_training_is_right(optimized, then):
    for model in plain_and_swapped():
        torch.compiler.reset()
        other = copy.deepcopy(model.train())
        compiled = ours(model, dynamic=True, options={"then": then})
        for batch in (4, 3):
            x = images(batch)
            assert_close(step(model, compiled, x), step(other, other, x), rtol=1e-4, atol=1e-4)
    assert optimized == []


def test_autocast_and_graph_breaks():
    model, swapped = plain_and_swapped()
    x = images()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(swapped)(x), swapped(x))

    def in_two_graphs(x: Tensor) -> Tensor:
        features = model.stem(x)
        torch._dynamo.graph_break()
        return model.head(model.block(features))

    with torch.no_grad():
        assert_close(torch.compile(in_two_graphs, backend="fastconv")(x), in_two_graphs(x))


def test_an_unknown_option():
    with pytest.raises(Exception, match="expected the options 'then'"):
        ours(SmallNetwork(), options={"than": "inductor"})(images())


def test_inductor_after_the_passes_and_in_training(optimized):
    model, swapped = plain_and_swapped()
    x = images()
    compiled = ours(model, options={"then": "inductor"})
    with torch.no_grad():
        assert_close(compiled(x), model(x))
    assert optimized

    other = copy.deepcopy(swapped.train())
    compiled = torch.compile(swapped, backend="inductor", fullgraph=True, dynamic=True)
    for x in (images(4), images(3, 14)):
        assert_close(step(swapped, compiled, x), step(other, other, x), rtol=1e-4, atol=1e-4)
