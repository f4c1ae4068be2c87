"""Plans of memory: who lives when in tiny graphs, and offsets that keep them apart."""

import operator

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx

from fastconv.optimize.plan_memory import ALIGNMENT, Life, lives, place

aten = torch.ops.aten


def assert_apart(sizes, times, offsets, total):
    for i in range(len(sizes)):
        assert offsets[i] % ALIGNMENT == 0
        assert 0 <= offsets[i] <= total - sizes[i]
        for j in range(i):
            apart = offsets[i] + sizes[i] <= offsets[j] or offsets[j] + sizes[j] <= offsets[i]
            assert apart or not times[i].meets(times[j]) or 0 in (sizes[i], sizes[j])


def test_a_chain_needs_the_two_largest_neighbours():
    sizes = [640, 1280, 64, 640]
    offsets, total = place(sizes, [Life(i, i + 1) for i in range(4)])
    assert_apart(sizes, [Life(i, i + 1) for i in range(4)], offsets, total)
    assert total == 640 + 1280


def test_a_gap_that_fits_best_is_taken():
    sizes = [256, 128, 64, 64, 64]
    times = [Life(0, 9), Life(0, 1), Life(0, 9), Life(2, 3), Life(2, 3)]
    offsets, total = place(sizes, times)
    assert_apart(sizes, times, offsets, total)
    assert total == 256 + 128 + 64


def test_nothing_needs_nothing():
    assert place([], []) == ([], 0)
    assert place([0], [Life(0, 0)]) == ([0], 0)


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 20), st.integers(0, 9)), max_size=24)
)
def test_what_lives_at_once_lies_apart(tensors):
    sizes = [size for size, _, _ in tensors]
    times = [Life(first, first + steps) for _, first, steps in tensors]
    offsets, total = place(sizes, times)
    assert_apart(sizes, times, offsets, total)
    assert total <= sum(size + ALIGNMENT for size in sizes)


def graph_of(build):
    """A graph over one input x: build(call, x) gives the node that is its output."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(build(lambda op, *args: graph.call_function(op, args), x))
    return graph


def lives_of(build):
    graph = graph_of(build)
    found = lives(graph, [node for node in graph.nodes if node.target is aten.relu.default])
    return {node.name.replace("_default", ""): tuple(life) for node, life in found.items()}


relu, view = aten.relu.default, aten.view.default


def test_a_life_ends_with_the_last_reader():
    def build(call, x):
        a = call(relu, x)
        b = call(relu, a)
        return call(aten.add.Tensor, call(relu, b), a)

    assert lives_of(build) == {"relu": (1, 4), "relu_1": (2, 3), "relu_2": (3, 4)}


def test_a_life_goes_on_in_views_and_in_what_may_be_one():
    def build(call, x):
        a = call(view, call(relu, x), [-1])
        b = call(aten.contiguous.default, a)
        c = call(operator.getitem, b, 0)
        return call(aten.mul.Tensor, call(aten.neg.default, b), c)

    assert lives_of(build) == {"relu": (1, 6)}


def test_what_an_output_may_share_is_not_planned():
    assert lives_of(lambda call, x: call(relu, call(relu, x))) == {"relu": (1, 2)}
    assert lives_of(lambda call, x: call(view, call(relu, x), [-1])) == {}
    assert lives_of(lambda call, x: call(aten.contiguous.default, call(relu, x))) == {}
    both = lives_of(lambda call, x: (call(relu, x), call(aten.cat.default, [call(relu, x)])))
    assert both == {"relu_1": (2, 3)}


def test_a_result_that_nobody_reads_lives_for_its_step():
    def build(call, x):
        call(relu, x)
        return x

    assert lives_of(build) == {"relu": (1, 1)}
