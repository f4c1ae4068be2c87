"""Optimized networks in planned memory: the same bits, whoever calls, however many at once."""

import copy
import gc
import os
import pickle
import signal
import threading
import weakref

import pytest
import torch
from torch import Tensor, nn

import fastconv
from fastconv.optimize.arena import MOST_PLANS
from fastconv.optimize.dense import DenseConv2d

from .helpers import channels_last, threads


class Branches(nn.Module):
    """Blocks, a view, a concatenation, a residual add, a dense convolution, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(8, 8, 1), nn.Conv2d(16, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.dense = nn.Conv2d(8, 8, 3, 1, 1)
        self.norm = nn.LocalResponseNorm(3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = self.norm(self.first(x))
        b = torch.relu(self.depthwise(a) + a)
        c = self.dense(b).flatten(2).view_as(b)
        joined = self.last(torch.cat([b, c], 1))
        return torch.relu(joined), (joined * b).mean((2, 3))


X = torch.randn(4, 8, 12, 12)


def optimized() -> nn.Module:
    return fastconv.optimize(Branches().eval(), (X,))


def unplanned(fast: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return list(fast.graph(x))


def assert_same_bits(actual: tuple[Tensor, ...], expected: list[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last])
def test_planned_calls_give_the_bits_of_the_first(layout):
    fast = optimized()
    for batch in (4, 1, 4, 0, 3, 1, 4):
        x = layout(torch.randn(batch, 8, 12, 12))
        expected = unplanned(fast, x)
        for _ in range(3):
            assert_same_bits(fast(x), expected)
    plan = max(fast._arenas.plans.values(), key=lambda plan: plan.bytes)
    assert plan.bytes < sum(slot.shape.numel() * 4 for slot in plan.slots if slot)


def test_results_are_new_memory_and_inputs_stay():
    fast, x = optimized(), X.clone()
    fast(x)
    results = [fast(x) for _ in range(4)]
    kept = [tuple(t.clone() for t in result) for result in results]
    fast(-x)
    for result, copies in zip(results, kept, strict=True):
        assert_same_bits(result, list(copies))
    assert torch.equal(x, X)
    (arena,) = fast._arenas.free
    begin, end = arena.block.data_ptr(), arena.block.data_ptr() + arena.block.numel()
    assert not any(begin <= t.data_ptr() < end for result in results for t in result)


def test_threads_at_once_have_an_arena_each():
    fast = optimized()
    inputs = [torch.randn(1 + i % 2, 8, 12, 12) for i in range(6)]
    expected = [unplanned(fast, x) for x in inputs]
    failures: list[object] = []
    start = threading.Barrier(len(inputs))

    def work(index: int) -> None:
        try:
            start.wait()
            for _ in range(60):
                assert_same_bits(fast(inputs[index]), expected[index])
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures
    assert 1 <= len(fast._arenas.free) <= len(inputs)
    blocks = [arena.block.data_ptr() for arena in fast._arenas.free]
    assert len(set(blocks)) == len(blocks)


def test_a_call_within_a_call_and_an_error_within_a_call(monkeypatch):
    fast = optimized()
    expected = unplanned(fast, X)
    fast(X)
    forward, depth = DenseConv2d.forward, []

    def calls_again(self, *arguments):
        if not depth:
            depth.append(1)
            assert_same_bits(fast(X), expected)
        return forward(self, *arguments)

    monkeypatch.setattr(DenseConv2d, "forward", calls_again)
    assert_same_bits(fast(X), expected)
    assert len(fast._arenas.free) == 2

    def fails(self, *arguments):
        raise KeyError("on purpose")

    monkeypatch.setattr(DenseConv2d, "forward", fails)
    for _ in range(3):
        with pytest.raises(KeyError, match="on purpose"):
            fast(X)
    assert len(fast._arenas.free) == 2
    monkeypatch.undo()
    assert_same_bits(fast(X), expected)


def test_memory_goes_with_the_module_or_when_asked():
    fast = optimized()
    for _ in range(2):
        fast(X)
    assert fast.memory_kept > 0
    assert fast.memory_kept == fast._arenas.free[0].block.numel()
    fast.release_memory()
    assert fast.memory_kept == 0
    fast(X)
    arena = weakref.ref(fast._arenas.free[0])
    del fast
    gc.collect()
    assert arena() is None


def test_copies_and_pickles_take_no_memory_along():
    fast = optimized()
    for _ in range(2):
        fast(X)
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert other.memory_kept == 0
        assert not other._arenas.plans
        for _ in range(2):
            assert_same_bits(other(X), unplanned(fast, X))
    assert len(pickle.dumps(fast)) < fast.memory_kept


def test_only_so_many_plans_are_kept():
    fast = optimized()
    for batch in range(1, MOST_PLANS + 4):
        x = torch.randn(batch, 8, 12, 12)
        for _ in range(2):
            assert_same_bits(fast(x), unplanned(fast, x))
    assert len(fast._arenas.plans) == MOST_PLANS
    assert len(fast._arenas.free) == 1
    assert len(fast._arenas.free[0].tensors) <= MOST_PLANS


def test_inference_mode_before_and_after():
    fast = optimized()
    expected = unplanned(fast, X)
    for inside in (True, False, True, False):
        for _ in range(2):
            with torch.inference_mode(inside):
                assert_same_bits(fast(X), expected)


def test_a_module_moved_to_another_dtype_plans_anew():
    fast = optimized()
    for _ in range(2):
        fast(X)
    fast.double()
    for _ in range(2):
        assert fast(X.double())[0].dtype == torch.float64
    assert_same_bits(fast(X.double()), unplanned(fast, X.double()))


def test_errors_of_wrong_inputs_are_those_of_the_first_call():
    fast = optimized()
    wrong = [X[:, :4], X[..., 1:], X[0], X.double(), "image", None]
    first = []
    for value in wrong:
        with pytest.raises(RuntimeError) as raised:
            fast(value)
        first.append(str(raised.value))
    for _ in range(2):
        fast(X)
    for value, message in zip(wrong, first, strict=True):
        for _ in range(2):
            with pytest.raises(RuntimeError) as raised:
                fast(value)
            assert str(raised.value) == message
    assert "expected inputs like [('N', 8, 12, 12)]" in first[0]
    assert_same_bits(fast(X), unplanned(fast, X))


def test_a_change_of_threads_between_calls_is_honoured_with_the_same_bits():
    fast = optimized()
    x = torch.randn(4, 8, 12, 12)
    expected = unplanned(fast, x)
    for count in (1, 3, 2, 7, 1):
        with threads(count):
            assert_same_bits(fast(x), expected)
            assert torch.get_num_threads() == count


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_runs_what_its_parent_ran():
    model = fastconv.optimize(fastconv.models.mobilenet_v2().eval(), (torch.randn(1, 3, 64, 64),))
    x = torch.randn(4, 3, 64, 64)
    with threads(2):
        expected = [model(x) for _ in range(2)][1]
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            ok = all(torch.equal(model(x), expected) for _ in range(2))
            os._exit(0 if ok and torch.get_num_threads() == 1 else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert torch.equal(model(x), expected)


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0", "googlenet_lrn", "resnet18"])
def test_networks(name):
    builder = getattr(fastconv.models, name)
    fast = fastconv.optimize(builder().eval(), (torch.randn(1, 3, 96, 96),))
    for batch in (2, 1, 2):
        x = torch.randn(batch, 3, 96, 96)
        assert_same_bits((fast(x), fast(x)), unplanned(fast, x) * 2)


@pytest.mark.skipif(fastconv._C.isa() == "scalar", reason="blocks run by parts")
def test_peak_memory_of_mobilenet_v2():
    model = fastconv.models.mobilenet_v2().eval()
    x = torch.randn(4, 3, 224, 224)
    fast = fastconv.optimize(model, (x,))
    eager, planned = fastconv.peak_memory(model, x), fastconv.peak_memory(fast, x)
    expanded = 4 * 96 * 112 * 112 * 4  # the largest activation; it is read and written at once
    assert eager >= 2 * expanded
    assert planned <= 0.3 * eager
    assert fastconv.peak_memory(torch.clone, x) == x.numel() * 4
