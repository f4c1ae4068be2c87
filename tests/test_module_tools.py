"""What is done to modules, on swapped ones: hooks, parametrizations, pruning, EMA, copies."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.testing import assert_close

import fastconv
from tests.small_network import SmallNetwork, images, plain_and_swapped


def classes(model: nn.Module) -> list[str]:
    return [f"{type(m).__module__}.{type(m).__name__}" for m in model.modules()]


def test_hooks_see_every_swapped_layer():
    _, model = plain_and_swapped()
    seen = []
    layers = {n: m for n, m in model.named_modules() if type(m).__module__.startswith("fastconv.")}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda *_, name=name: seen.append(("before", name)))
        layer.register_forward_hook(lambda *_, name=name: seen.append(("after", name)))
        layer.register_full_backward_hook(lambda *_, name=name: seen.append(("back", name)))
    model(images().requires_grad_()).sum().backward()
    assert set(seen) == {(when, name) for name in layers for when in ("before", "after", "back")}
    assert len(layers) > 6


@pytest.mark.parametrize("first", ["swap", "parametrize"])
def test_parametrizations_before_and_after_the_swap(first):
    plain = SmallNetwork()
    x = images()

    def parametrized(model: nn.Module) -> nn.Module:
        torch.manual_seed(1)
        parametrizations.weight_norm(model.block.layers[0])
        parametrizations.spectral_norm(model.block.layers[3])
        return model

    steps = [fastconv.swap_, parametrized] if first == "swap" else [parametrized, fastconv.swap_]
    swapped = steps[1](steps[0](copy.deepcopy(plain)))
    parametrized(plain)
    assert isinstance(swapped.block.layers[0], fastconv.nn.Conv2d)
    for _ in range(2):
        assert_close(swapped(x), plain(x))
        for model in (plain, swapped):
            model(x).square().sum().backward()
    for mine, torchs in zip(swapped.parameters(), plain.parameters(), strict=True):
        assert_close(mine.grad, torchs.grad)
    assert_close(swapped.state_dict(), plain.state_dict())

    fastconv.restore_(swapped)
    assert [type(m).__mro__[1:] for m in swapped.modules() if parametrize.is_parametrized(m)] == [
        nn.Conv2d.__mro__
    ] * 2
    assert_close(swapped.eval()(x), plain.eval()(x))
    assert_close(fastconv.optimize(plain, (x,))(x), plain(x))
    parametrize.remove_parametrizations(swapped.block.layers[0], "weight")
    assert type(swapped.block.layers[0]) is nn.Conv2d
    assert_close(swapped(x), plain(x))


@pytest.mark.filterwarnings("ignore:The tensor attributes")  # torch.export's, of pruned weights
def test_pruning():
    plain, swapped = plain_and_swapped()
    x = images()
    for model in (plain, swapped):
        torch.manual_seed(1)
        prune.random_unstructured(model.block.layers[3], "weight", 0.5)
        prune.ln_structured(model.head[0], "weight", 0.5, n=2, dim=0)
    assert_close(swapped(x), plain(x))
    assert_close(fastconv.optimize(swapped, (x,))(x), plain(x))
    prune.remove(swapped.head[0], "weight")
    assert_close(fastconv.restore_(swapped)(x), plain(x))


def test_moving_averages_of_weights():
    averages, batches = [], [images(), images()]
    for model in plain_and_swapped():
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.5)
        average.update_parameters(model)
        update_bn(batches, average)
        averages.append(average.eval())
    plain, swapped = averages
    assert_close(swapped.state_dict(), plain.state_dict())
    assert_close(swapped(batches[0]), plain(batches[0]))


def test_deepcopy_saving_and_state_dicts():
    plain, swapped = plain_and_swapped()
    x, file = images(), io.BytesIO()
    torch.save(swapped, file)
    file.seek(0)
    for other in (copy.deepcopy(swapped), torch.load(file, weights_only=False)):
        assert classes(other) == classes(swapped)
        assert_close(other(x), plain(x))
        assert classes(fastconv.restore_(other)) == classes(plain)
    weights = swapped.state_dict()
    assert list(weights) == list(plain.state_dict())
    fresh = fastconv.swap_(SmallNetwork()).eval()
    fresh.load_state_dict(weights, assign=True)
    assert torch.equal(fresh(x), swapped(x))
