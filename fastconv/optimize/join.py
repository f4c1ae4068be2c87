"""Consecutive calls of our ops in one: one pass through the dispatcher, one wake of its threads.

MobileNetV2 has 20 such calls in a row. This is for running alone: the graph that a user sees,
exports or measures keeps each call.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from fastconv import _C
from fastconv.ops._op import WATCHERS
from fastconv.optimize.conv import arguments_of
from fastconv.optimize.linear import MOST_ROWS, Linear

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

    Each is among the owners of a slot, which its result will be written to, but for a linear layer
    that reads the one before and ends the list: its result is new memory.
    """
    run: list[fx.Node] = []
    for node in graph.nodes:
        if node in owners and _can_be_queued(node):
            run.append(node)
        elif node.op != "get_attr":
            if run and _ends(node, run):
                run.append(node)
            if len(run) > 1:
                yield run
            run = []


def joined(
    run: list[fx.Node], buffers: Mapping[str, Any]
) -> tuple[Callable[..., Any], list[fx.Node]]:
    """One call for a run, and the nodes whose values it is given.

    The call takes the dictionary of buffers, the slots of the run in their order, and these values;
    it gives the result of a linear layer at the end.
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

    def text(run: list[fx.Node]) -> str:
        return "\n".join(
            " ".join([_name(node, after), *map(written, _arguments(node))])
            for node, after in zip(run, [*run[1:], None], strict=True)
        )

    names = list(weights)
    linear = linear_of(run[-1])
    calls = text(run)
    if linear is None:

        def fastconv_sequence(
            buffers: dict[str, Tensor], slots: list[Tensor], *given: Tensor
        ) -> None:
            _sequence([*map(buffers.__getitem__, names), *given], calls, slots)

        return fastconv_sequence, list(given)

    calls_before = text(run[:-1])
    read = [str(node.target) if isinstance(node, fx.Node) else None for node in run[-1].args[1:]]
    weight = buffers[str(read[0])]
    features = weight.shape[1 if weight.dim() == 3 else 0]  # in panels, or not

    def fastconv_sequence_linear(
        buffers: dict[str, Tensor], slots: list[Tensor], *given: Tensor
    ) -> Tensor:
        inputs = [*map(buffers.__getitem__, names), *given]
        pixels = slots[-1]
        rows = pixels.shape[0]
        if rows > MOST_ROWS:
            _sequence(inputs, calls_before, slots)
            return linear(pixels, *(buffers[name] if name else None for name in read))
        output = pixels.new_empty((rows, features, 1, 1))
        _sequence(inputs, calls, [*slots, output])
        return output.view(rows, features)

    return fastconv_sequence_linear, list(given)


def _by_dispatcher(inputs: list[Tensor], calls: str, out: list[Tensor]) -> None:
    _ops.sequence.default._op(inputs, calls, out=out)


# Past the dispatcher, which packs and unpacks each of some hundred tensors: with the classifier in
# the same call MobileNetV2 takes 0.97 of the time at batch 1 (two cores of an Intel Xeon with AMX).
_sequence = _C.direct("sequence", _by_dispatcher, WATCHERS)


def linear_of(node: fx.Node) -> Linear | None:
    """The linear layer of a node, None where it is something else."""
    owner = node.graph.owning_module
    if node.op != "call_module" or owner is None:
        return None
    module = owner.get_submodule(str(node.target))
    return module if isinstance(module, Linear) else None


def _ends(node: fx.Node, run: list[fx.Node]) -> bool:
    """Whether a node is a linear layer of what the run's last call made: one pixel an image."""
    if linear_of(node) is None or node.args[0] is not run[-1]:
        return False
    read = [source for source in node.args[1:] if source is not None]
    buffers = dict(run[-1].graph.owning_module.named_buffers())  # type: ignore[union-attr]
    return all(getattr(source, "target", None) in buffers for source in read)


def _arguments(node: fx.Node) -> list[Any]:
    """The arguments of a call in the order of the schema."""
    linear = linear_of(node)
    if linear is None:
        return list(arguments_of(node).values())
    return [*node.args, None, (1, 1), linear.activation]  # as pointwise_conv2d has them


def _name(node: fx.Node, after: fx.Node | None) -> str:
    """The op of a call, marked where only the call after it reads the result."""
    read_once = after is not None and _arguments(after).count(node) == 1
    op = QUEUED.get(node.target, "pointwise_conv2d")
    return ("~" if read_once and len(node.users) == 1 else "") + op


def _can_be_queued(node: fx.Node) -> bool:
    """Whether all but its tensors is known: sizes that a call computes cannot be written down."""
    if node.target not in QUEUED:
        return False
    lists = [value for value in arguments_of(node).values() if isinstance(value, (list, tuple))]
    return all(type(value) is int for values in lists for value in values)
