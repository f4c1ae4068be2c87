"""Networks in many coding styles: optimize and swap_ give eager's numbers, and are not slower."""

import copy
import functools
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

import fastconv
from tests.helpers import cpu_times, threads
from tests.styles import STYLES, Example, build

NOT_CAPTURED = {"Branching": "data-dependent", "Counting": "writes to its buffers"}
EACH = pytest.mark.parametrize("name", STYLES)


def run(model: nn.Module, example: Example) -> Any:
    """What a copy of the model answers: some write to themselves."""
    args, kwargs = example
    with torch.no_grad():
        return copy.deepcopy(model)(*args, **kwargs)


def state_of(model: nn.Module) -> dict[str, Any]:
    """Everything that may not change: objects, values, flags, hooks and attributes."""
    modules = {
        name: (type(module), module.training, sorted(module.__dict__), len(module._forward_hooks))
        for name, module in model.named_modules(remove_duplicate=False)
    }
    tensors = {
        name: (id(value), value._version, value.requires_grad, value.stride())
        for name, value in [*model.named_parameters(), *model.named_buffers()]
    }
    return {"modules": modules, "tensors": tensors, "keys": list(model.state_dict())}


@functools.cache
def optimized(name: str) -> tuple[nn.Module, nn.Module]:
    """The model, found unchanged, and what optimize makes of it."""
    torch.manual_seed(0)
    model = build(name).eval()
    args, kwargs = model.example(2)
    before = state_of(model)
    fast = fastconv.optimize(model, args, example_kwargs=kwargs)
    assert state_of(model) == before
    return model, fast


@EACH
def test_optimize_gives_eager_results_and_changes_nothing(name):
    model, fast = optimized(name)
    reasons = [row["reason"] for row in fast.receipt if row["kernel"] == "swapped"]
    assert all(NOT_CAPTURED[name] in reason for reason in reasons)
    assert bool(reasons) == (name in NOT_CAPTURED)
    for batch in (2, 3):
        for example in (model.example(batch), model.example(batch)):
            expected = run(model, example)
            torch.testing.assert_close(run(fast, example), expected, rtol=1e-4, atol=1e-5)


@EACH
@pytest.mark.parametrize("training", [False, True])
def test_swap_gives_eager_results_gradients_and_statistics(name, training):
    model = build(name).train(training)
    wide = pytree.tree_map_only(Tensor, lambda t: t.double(), model.example(2))
    if name != "Branching":  # which computes in float32 at its end
        model.double()
    example = model.example(2) if name == "Branching" else wide
    results = []
    for network in (model, fastconv.swap_(copy.deepcopy(model))):
        outputs = pytree.tree_leaves(network(*example[0], **example[1]))
        sum(output.square().sum() for output in outputs if output is not None).backward()
        gradients = {name: p.grad for name, p in network.named_parameters()}
        results.append((outputs, gradients, network.state_dict()))
    tolerance = (
        {"rtol": 1e-3, "atol": 1e-4} if name == "Branching" else {"rtol": 1e-7, "atol": 1e-9}
    )
    torch.testing.assert_close(results[0], results[1], **tolerance)


@EACH
def test_restore_gives_the_very_model_back(name):
    model = build(name)
    before, printed = state_of(model), repr(model)
    swapped = fastconv.swap_(model)
    assert list(swapped.state_dict()) == before["keys"]
    fastconv.restore_(model)
    assert (state_of(model), repr(model)) == (before, printed)


@EACH
def test_neither_is_slower(name):
    model, fast = optimized(name)
    args, kwargs = model.example(16)
    rivals = [model, fast, fastconv.swap_(copy.deepcopy(model))]
    calls = [functools.partial(rival, *args, **kwargs) for rival in rivals]
    ratios = []
    with threads(1), torch.inference_mode():
        for _ in range(3):  # what is slower is so every time
            eager, *others = cpu_times(calls)
            ratios.append([time / eager for time in others])
    assert min(ratio for ratio, _ in ratios) < 1.1
    assert min(ratio for _, ratio in ratios) < 1.3
