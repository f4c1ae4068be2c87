"""optimize(measure=...): every way computes the same, and the fastest stays."""

import functools
import importlib

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastconv
from fastconv.optimize.race import race

X = torch.randn(2, 3, 16, 16)


class Blocks(nn.Module):
    """A stem, two like blocks of which one adds, one with a squeeze-and-excitation, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.expand = nn.ModuleList(nn.Conv2d(8, 16, 1) for _ in range(3))
        self.depthwise = nn.ModuleList(nn.Conv2d(16, 16, 3, 1, 1, groups=16) for _ in range(3))
        self.project = nn.ModuleList(nn.Conv2d(16, 8, 1) for _ in range(3))
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.head = nn.Conv2d(8, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for i in range(3):
            hidden = F.relu6(self.depthwise[i](F.relu6(self.expand[i](x))))
            if i == 2:
                gates = self.excite(F.relu(self.squeeze(hidden.mean((2, 3), keepdim=True))))
                hidden = hidden * gates.sigmoid()
            y = self.project[i](hidden)
            x = x + y if i else y
        return F.relu(self.head(x) + 1)


@functools.cache
def model() -> nn.Module:
    torch.manual_seed(0)
    return Blocks().eval()


def optimize_with(
    monkeypatch, decide, seconds=1e9, whole_too=False, network=None, **settings
) -> tuple[nn.Module, list[int]]:
    """The network where races end as decide says, and how many ways each race had.

    That of the whole network is won by ours, unless decide is to say that too.
    """
    races: list[int] = []

    def told(rivals, _seconds, _clear=0.0, *, whole):
        for rival in rivals:
            rival()
        races.append(len(rivals))
        return [1e-3, 2e-3] if whole and not whole_too else decide(len(rivals))

    for name in ("measure", "whole"):
        module = importlib.import_module(f"fastconv.optimize.{name}")
        monkeypatch.setattr(module, "race", functools.partial(told, whole=name == "whole"))
    return fastconv.optimize(network or model(), X, measure=seconds, **settings), races


def kernels(fast: nn.Module) -> list[str]:
    return [row["kernel"] for row in fast.receipt if row["weight"]]


def assert_same(fast: nn.Module) -> None:
    for batch in (2, 5):
        x = torch.randn(batch, 3, 16, 16)
        with torch.no_grad():
            torch.testing.assert_close(fast(x), model()(x), rtol=1e-4, atol=1e-5)


STATIC = ["stem_conv2d", *["inverted_residual"] * 3, "pointwise_conv2d"]


def test_the_plan_stays_where_it_wins(monkeypatch):
    fast, races = optimize_with(monkeypatch, lambda ways: [1e-3, 2e-3, 3e-3][:ways])
    assert kernels(fast) == STATIC
    assert sorted(races) == [2, 2, 2, 3, 3, 3]  # stem, head, the whole; three different blocks
    assert fast.receipt[-1]["measured"] == {"optimized": 1.0, "torch": 2.0}
    assert fast.receipt[1]["measured"] == {"block": 1.0, "parts": 2.0, "torch": 3.0}
    assert_same(fast)


def test_the_plan_stays_where_others_are_hardly_faster(monkeypatch):
    fast, _ = optimize_with(monkeypatch, lambda ways: [1e-3, 0.97e-3, 0.96e-3][:ways])
    assert kernels(fast) == STATIC


def test_parts_where_they_win(monkeypatch):
    fast, _ = optimize_with(
        monkeypatch, lambda ways: [2e-3, 2e-3 if ways == 2 else 1e-3, 3e-3][:ways]
    )
    parts = ["pointwise_conv2d", "depthwise_conv2d", "pointwise_conv2d"]
    gates = ["pointwise_conv2d", "pointwise_conv2d"]
    assert kernels(fast) == ["stem_conv2d", *parts * 2, *parts[:2], *gates, parts[2], STATIC[-1]]
    assert any(row.get("reason") == "the block was slower here" for row in fast.receipt)
    assert_same(fast)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_torchs_convolutions_where_they_win(monkeypatch, dtype):
    fast, _ = optimize_with(monkeypatch, lambda ways: [3e-3, 2e-3, 1e-3][-ways:], dtype=dtype)
    of_layers = [row for row in fast.receipt if row["weight"] and "squeeze" not in row["layer"]]
    assert {row["kernel"] for row in of_layers if row["layer"] != "excite"} == {"torch"}
    if dtype is None:
        assert_same(fast)
    else:
        torch.testing.assert_close(fast(X).float(), model()(X), rtol=0.1, atol=0.1)


def torch_wins(ways: int) -> list[float]:
    return [2e-3, 1e-3, 3e-3][:ways]


def test_a_network_that_torch_runs_faster_comes_back_as_it_is(monkeypatch):
    fast, _ = optimize_with(monkeypatch, torch_wins, whole_too=True)
    (row,) = fast.receipt
    assert (row["layer"], row["kernel"]) == ("model", "torch")
    assert row["reason"] == "torch is faster here"
    assert row["measured"] == {"optimized": 2.0, "torch": 1.0}
    assert type(fast) is Blocks
    assert fast is not model()
    assert torch.equal(fast(X), model()(X))
    half, _ = optimize_with(monkeypatch, torch_wins, whole_too=True, dtype=torch.bfloat16)
    assert half(X).dtype == torch.bfloat16
    assert model().stem.weight.dtype == torch.float32


def test_without_time_the_plan_stays(monkeypatch):
    fast, races = optimize_with(monkeypatch, lambda ways: [2e-3, 2e-3, 2e-3][:ways], seconds=1e-9)
    assert races == [2]  # that of the whole
    assert kernels(fast) == STATIC


def test_real_races_give_a_network_that_computes_the_same():
    fast = fastconv.optimize(model(), X, measure=0.5)
    assert_same(fast)
    if len(fast.receipt) > 1:
        assert all(v > 0 for row in fast.receipt for v in row.get("measured", {}).values())


def test_a_race_tells_fast_from_slow():
    fast, slow = race([lambda: sum(range(3000)), lambda: sum(range(30000))], seconds=0.1)
    assert slow > 2 * fast > 0


class Ends(nn.Module):
    """A pool of each kind and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv(x), 3, 2)
        return self.head(torch.cat([x.mean((2, 3)), F.adaptive_avg_pool2d(x, 1).flatten(1)], 1))


@pytest.mark.parametrize("winner", ["ours", "torch"])
def test_pools_and_linear_layers_are_raced(monkeypatch, winner):
    times = [1e-3, 2e-3] if winner == "ours" else [2e-3, 1e-3]
    network = Ends().eval()
    fast, races = optimize_with(monkeypatch, lambda ways: times, network=network)
    assert races == [2] * 6  # five layers and the whole
    *rows, _ = fast.receipt
    kernels = ["pointwise_conv2d", "max_pool2d", *["global_avg_pool2d"] * 2, "pointwise_conv2d"]
    served = [row for row in rows if row.get("op") != "cat"]
    assert [row["kernel"] for row in served] == (kernels if winner == "ours" else ["torch"] * 5)
    for row in served:
        assert set(row["measured"]) == {"ours", "torch"}
        assert winner == "ours" or row["reason"] == "ours was slower here"
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), network(x), rtol=1e-4, atol=1e-5)
