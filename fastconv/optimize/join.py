"""Consecutive calls of our ops in one: one pass through the dispatcher, one wake of its threads.

MobileNetV2 has 20 such calls in a row. This is for running alone: the graph that a user sees,
exports or measures keeps each call.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from fastconv.optimize.conv import arguments_of

_ops = torch.ops.fastconv

# What csrc/ops/sequence.cpp calls, by the name that it knows.
QUEUED = {
    getattr(_ops, name).default: name
    for name in (
        "inverted_residual",
        "separable_conv2d",
        "pointwise_conv2d",
        "dense_conv2d",
        "stem_conv2d",
        "global_avg_pool2d",
    )
}


def runs(graph: fx.Graph, owners: Collection[fx.Node]) -> Iterator[list[fx.Node]]:
    """The longest lists, of two and more, of nodes that follow one another and can be one call.

    Each is among the owners of a slot, which its result will be written to.
    """
    run: list[fx.Node] = []
    for node in graph.nodes:
        if node in owners and _can_be_queued(node):
            run.append(node)
        elif node.op != "get_attr":
            if len(run) > 1:
                yield run
            run = []


def joined(
    run: list[fx.Node], buffers: Collection[str]
) -> tuple[Callable[..., None], list[fx.Node]]:
    """One call for a run, and the nodes whose values it is given.

    The call takes the dictionary of buffers, the slots of the run in their order, and these values.
    """
    weights: dict[str, None] = {}
    given: dict[fx.Node, None] = {}
    for source in (source for node in run for source in node.all_input_nodes):
        if source.op == "get_attr" and source.target in buffers:
            weights[str(source.target)] = None
        elif source not in run:
            given[source] = None
    places: dict[Any, str] = {key: f"i{i}" for i, key in enumerate((*weights, *given))}
    places |= {node: f"o{i}" for i, node in enumerate(run)}

    def written(value: Any) -> str:
        if isinstance(value, fx.Node):
            return places[value] if value in places else places[value.target]
        if isinstance(value, (list, tuple)):
            return ",".join(map(str, value))
        return "-" if value is None else str(value).lower()

    calls = "\n".join(
        " ".join([_name(node, after), *map(written, arguments_of(node).values())])
        for node, after in zip(run, [*run[1:], None], strict=True)
    )
    names = list(weights)
    sequence = _ops.sequence.default._op

    def fastconv_sequence(buffers: dict[str, Tensor], slots: list[Tensor], *given: Tensor) -> None:
        sequence([*map(buffers.__getitem__, names), *given], calls, out=slots)

    return fastconv_sequence, list(given)


def _name(node: fx.Node, after: fx.Node | None) -> str:
    """The op of a call, marked where only the call after it reads the result."""
    read_once = after is not None and [*arguments_of(after).values()].count(node) == 1
    return ("~" if read_once and len(node.users) == 1 else "") + QUEUED[node.target]


def _can_be_queued(node: fx.Node) -> bool:
    """Whether all but its tensors is known: sizes that a call computes cannot be written down."""
    if node.target not in QUEUED:
        return False
    lists = [value for value in arguments_of(node).values() if isinstance(value, (list, tuple))]
    return all(type(value) is int for values in lists for value in values)
