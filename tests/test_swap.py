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


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(inplace=True))


def kinds(model: nn.Module) -> list[str]:
    return [type(module).__name__ for module in model]


def test_a_batch_norm_computes_the_activation_that_follows_it():
    plain = chain()
    swapped = fastconv.swap_(copy.deepcopy(plain))
    assert kinds(swapped) == ["Conv2d", "BatchNorm2d", "Absorbed"]
    assert swapped[1].activation == "relu6"
    x = torch.randn(2, 3, 9, 9)
    for training in (True, False):
        torch.testing.assert_close(swapped.train(training)(x), plain.train(training)(x))
    torch.testing.assert_close(swapped.state_dict(), plain.state_dict())
    fastconv.restore_(swapped)
    assert kinds(swapped) == kinds(plain)
    assert repr(swapped) == repr(plain)


def test_an_activation_that_others_may_see_is_left_alone():
    hooked, before, shared = chain(), chain(), chain()
    hooked[1].register_forward_hook(lambda *_: None)
    before[2].register_forward_pre_hook(lambda *_: None)
    shared.append(shared[2])
    called = nn.ModuleList(chain())  # in an order that its owner decides
    for model in (hooked, before, shared, called):
        fastconv.swap_(model)
        assert kinds(model)[1:3] == ["BatchNorm2d", "ReLU6"]
        assert model[1].activation is None
    chosen = fastconv.swap_(chain(), filter_fn=lambda _, module: type(module) is nn.Conv2d)
    assert type(chosen[1]) is nn.BatchNorm2d
    assert kinds(chosen)[2] == "ReLU6"


def test_a_swapped_batch_norm_is_still_folded():
    model = fastconv.swap_(chain().eval())
    fast = fastconv.optimize(model, torch.randn(1, 3, 9, 9))
    assert [row["activation"] for row in fast.receipt] == ["relu6"]
    assert not any("batch_norm" in str(node.target) for node in fast.graph.graph.nodes)
    x = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(fast(x), model(x))


@pytest.mark.parametrize("function", [fastconv.swap_, fastconv.restore_])
def test_what_is_no_module_is_refused(function):
    with pytest.raises(TypeError, match=r"_\(\): argument 'model' must be nn\.Module, not list"):
        function([nn.ReLU()])
