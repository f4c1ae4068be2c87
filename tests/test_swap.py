import copy
import pickle

import pytest
import torch
from torch import nn

import fastconv


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.LocalResponseNorm(5),
        nn.Conv2d(8, 8, 3, 1, 1, groups=8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 1, 2),
        nn.Conv2d(16, 16, 3, padding=1, groups=16, padding_mode="reflect"),
        nn.Conv2d(16, 4, 1, padding=1),
        nn.BatchNorm2d(4),
        nn.SiLU(),
        nn.Flatten(),
        nn.LazyLinear(10),
    )


def ours(model: nn.Module) -> list[int]:
    return [i for i, m in enumerate(model) if type(m).__module__.startswith("fastconv")]


def test_swaps_what_has_a_kernel_and_nothing_else():
    model = network()
    assert fastconv.swap_(model) is model
    assert ours(model) == [1, 2, 4, 7, 8]


def test_training_goes_the_same_way():
    torch.manual_seed(0)
    model = network().double()
    x, target = torch.randn(4, 3, 12, 12).double(), torch.randint(10, (4,))
    model(x)
    swapped = fastconv.swap_(copy.deepcopy(model))
    losses = []
    for net in (model, swapped):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        for _ in range(5):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x), target)
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    assert list(model.state_dict()) == list(swapped.state_dict())
    torch.testing.assert_close(model.state_dict(), swapped.state_dict())


def test_parameters_hooks_and_keys_stay_and_restore_gives_the_very_model_back():
    model = network()
    model(torch.randn(1, 3, 12, 12))
    called = []
    model[2].register_forward_hook(lambda *_: called.append("hook"))
    before = [(name, id(value)) for name, value in model.named_parameters()]
    classes = [type(module) for module in model.modules()]
    attributes = [set(module.__dict__) for module in model.modules()]

    fastconv.swap_(model)
    model(torch.randn(1, 3, 12, 12))
    assert called == ["hook"]
    assert [(name, id(value)) for name, value in model.named_parameters()] == before
    assert fastconv.swap_(model) is model  # twice is once

    assert fastconv.restore_(model) is model
    assert [type(module) for module in model.modules()] == classes
    assert [set(module.__dict__) for module in model.modules()] == attributes


def test_layers_of_ours_are_not_restored_to_torchs():
    model = nn.Sequential(fastconv.nn.PointwiseConv2d(3, 4), nn.Conv2d(4, 4, 1))
    fastconv.restore_(fastconv.swap_(model))
    assert ours(model) == [0]


def test_filter_fn_sees_names_and_decides():
    model = network()
    seen = []
    fastconv.swap_(model, filter_fn=lambda name, module: seen.append(name) or name != "2")
    assert seen == ["1", "2", "4", "7"]
    assert ours(model) == [1, 4, 7, 8]


def test_a_swapped_model_copies_pickles_and_compiles():
    model = fastconv.swap_(network())
    x = torch.randn(2, 3, 12, 12)
    expected = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), expected)
        assert ours(fastconv.restore_(other)) == []
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)
    compiled(x).sum().backward()
