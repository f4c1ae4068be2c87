"""The network as a whole: raced against the model, in two layouts, never slower."""

import copy
import functools
import importlib
import time

import pytest
import torch
from torch import nn

import fastconv
from fastconv.optimize.race import race
from tests.helpers import channels_last, contiguous, cpu_times, threads
from tests.single_layers import LAYERS
from tests.styles import build

whole = importlib.import_module("fastconv.optimize.whole")
SECONDS = 0.1  # of a race here


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("name", LAYERS)
def test_no_single_layer_comes_back_slower(monkeypatch, name, layout):
    builder, size = LAYERS[name]
    x = torch.randn(4, *size)
    x = layout(x) if len(size) == 3 else x
    model = builder().eval()
    ratios = []
    with threads(1), torch.inference_mode():
        for _ in range(3):  # what is slower is so every time
            monkeypatch.setattr(whole, "SHORT_SECONDS", SECONDS)
            fast = fastconv.optimize(model, x)
            expected = model(x)
            torch.testing.assert_close(fast(x), expected, rtol=1e-4, atol=1e-5)
            assert fast(x).stride() == expected.stride() or 1 in expected.shape
            eager, ours = cpu_times([functools.partial(model, x), functools.partial(fast, x)])
            ratios.append(ours / eager)
            if ratios[-1] < 1.1:
                return
    pytest.fail(f"{ratios} times the model's time, {fast.receipt}")


@pytest.fixture
def told(monkeypatch):
    """Has races end as told, and keeps what they were given."""

    def tell(*ratios: float) -> list[tuple]:
        calls: list[tuple] = []

        def decided(rivals, *settings):
            for rival in rivals:
                rival()
            calls.append(settings)
            return [1e-3 * ratios[len(calls) - 1], 1e-3]

        monkeypatch.setattr(whole, "SHORT_SECONDS", SECONDS)
        monkeypatch.setattr(whole, "race", decided)
        return calls

    return tell


MODEL = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1)).eval()
X = torch.randn(2, 8, 6, 6)


def conversions(fast: nn.Module) -> int:
    nodes = fast.graph.graph.nodes
    return sum(node.target is torch.ops.aten.contiguous.default for node in nodes)


@pytest.mark.parametrize(
    ("ratios", "races", "changes"),
    [((0.5,), 1, 2), ((0.9, 0.95), 2, 2), ((1.5, 0.9), 2, 1), ((1.04, 1.2), 2, 2)],
)
def test_the_better_layout_stays(told, ratios, races, changes):
    calls = told(*ratios)
    fast = fastconv.optimize(MODEL, X)
    assert calls == [(SECONDS, whole.CLEAR)] * races
    assert conversions(fast) == changes  # at both ends, or at the last alone
    measured = {"optimized": min(ratios), "torch": 1.0}
    assert fast.receipt[-1] == {**fast.receipt[-1], "layer": "model", "measured": measured}
    torch.testing.assert_close(fast(X), MODEL(X))
    assert fast(X).is_contiguous()


def test_a_network_that_loses_comes_back_as_it_is(told):
    told(1.3, 1.06)
    fast = fastconv.optimize(MODEL, X)
    (row,) = fast.receipt
    assert (row["kernel"], row["measured"]) == ("torch", {"optimized": 1.06, "torch": 1.0})
    assert type(fast) is nn.Sequential
    assert fast is not MODEL
    assert torch.equal(fast(X), MODEL(X))


def test_no_race_where_none_is_wanted(told):
    calls = told()
    for measure in (False, 0, 0.0):
        assert len(fastconv.optimize(MODEL, X, measure=measure).receipt) == 2
    assert calls == []


@pytest.mark.parametrize(("ratio", "kernel"), [(1.2, "torch"), (0.9, "swapped")])
@pytest.mark.parametrize("dtype", [None, torch.float64])
def test_what_writes_to_itself_is_raced_without_a_trace(told, ratio, kernel, dtype):
    model = build("Counting").eval()
    before = copy.deepcopy(model.state_dict())
    (x,), _ = model.example(2)
    assert len(told(ratio)) == 0
    fast = fastconv.optimize(model, x, dtype)
    assert fast.receipt[0]["kernel"] == kernel
    assert fast.receipt[0]["measured"] == {"optimized": ratio, "torch": 1.0}
    for network in (model, fast):
        for name, value in network.state_dict().items():
            assert torch.equal(value, before[name].to(value.dtype)), name
    assert fast(x).dtype == (dtype or torch.float32)


def test_outputs_lie_as_the_models_own():
    for x in (X, channels_last(X)):
        for fast in (MODEL, fastconv.optimize(MODEL, x)):
            assert fast(x).stride() == x.stride()


def test_a_clear_win_ends_a_race_early():
    def sleep(seconds: float):
        return lambda: time.sleep(seconds)

    start = time.perf_counter()
    ours, torchs = race([sleep(0.001), sleep(0.002)], 5.0, clear=0.8)
    assert time.perf_counter() - start < 1
    assert torchs > 1.25 * ours > 0
    start = time.perf_counter()
    race([sleep(0.05), sleep(0.1)], 0.1, clear=0.8)  # long calls: the first ones tell
    assert time.perf_counter() - start < 0.5
