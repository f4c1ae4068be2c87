"""Where the intermediates of a graph lie in one block of memory: who lives when, and offsets.

Offsets are "greedy by size" of Pisarchyk & Lee 2020 (arXiv 2001.03288, section 5.2): the largest
tensor first, each in the smallest gap between those that live at the same time, or above them.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import fx

from fastconv.optimize.dense import DenseConv2d
from fastconv.optimize.linear import Linear

ALIGNMENT = 64  # bytes: a cache line, and the widest vector


class Life(NamedTuple):
    """The first and the last step at which a tensor is written or read."""

    first: int
    last: int

    def meets(self, other: "Life") -> bool:
        return self.first <= other.last and other.first <= self.last


def place(sizes: Sequence[int], lives: Sequence[Life]) -> tuple[list[int], int]:
    """The offset of each tensor of so many bytes, and the bytes of the whole block."""
    sizes = [-(-size // ALIGNMENT) * ALIGNMENT for size in sizes]
    offsets = [0] * len(sizes)
    placed: list[int] = []
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        beside = sorted((offsets[j], sizes[j]) for j in placed if lives[j].meets(lives[i]))
        end, best = 0, None
        for offset, size in beside:
            gap = offset - end
            if gap >= sizes[i] and (best is None or gap < best[0]):
                best = gap, end
            end = max(end, offset + size)
        offsets[i] = end if best is None else best[1]
        placed.append(i)
    ends = (offset + size for offset, size in zip(offsets, sizes, strict=True))
    return offsets, max(ends, default=0)


def lives(graph: fx.Graph, nodes: Iterable[fx.Node]) -> dict[fx.Node, Life]:
    """The lives of those of the nodes whose memory no output of the graph may share.

    A view lives on in its own readers; what is not known to give new memory counts as a view.
    """
    tracked = set(nodes)
    found: dict[fx.Node, Life] = {}
    memory_of: dict[fx.Node, set[fx.Node]] = {}
    for step, node in enumerate(graph.nodes):
        read = set().union(*(memory_of[source] for source in node.all_input_nodes))
        for owner in read:
            found[owner] = Life(found[owner].first, step)
        if node.op == "output":
            return {owner: life for owner, life in found.items() if owner not in read}
        memory_of[node] = read if may_be_view(node) else set()
        if node in tracked:
            found[node] = Life(step, step)
            memory_of[node] = memory_of[node] | {node}
    return found


def may_be_view(node: fx.Node) -> bool:
    """Whether the result of a node may lie in the memory of its inputs."""
    if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
        return any(result.alias_info is not None for result in node.target._schema.returns)
    if node.op == "call_module":
        owner = node.graph.owning_module
        assert owner is not None
        return not isinstance(owner.get_submodule(str(node.target)), DenseConv2d | Linear)
    return node.op in ("call_function", "call_method")
