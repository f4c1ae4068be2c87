"""The order of memory that a lowered graph works in, from its inputs to its outputs."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fastconv.layout import memory_format_of
from fastconv.optimize.dense import DenseConv2d
from fastconv.optimize.passes.lift_sequences import makes_image

aten, ours = torch.ops.aten, torch.ops.fastconv

_ANY_LAYOUT = (ours.stem_conv2d.default, aten.sym_size.int)
# What channels_last makes faster, and how many conversions of an image that is worth. Norms, adds,
# means and normalisations run at one speed in both. `python -m bench.optimize layers` times both
# plans of networks of a layer or two: there a lone convolution loses by its conversions and a pool
# gains in spite of them.
_WORTH: dict[Any, int] = {
    aten.convolution.default: 1,
    aten.conv_transpose2d.input: 1,
    ours.dense_conv2d.default: 1,
    ours.depthwise_conv2d.default: 1,
    ours.pointwise_conv2d.default: 1,
    ours.separable_conv2d.default: 1,
    ours.inverted_residual.default: 1,
    ours.max_pool2d.default: 2,
}
ENOUGH = 2


def channels_last_pays(module: fx.GraphModule) -> bool:
    """Whether a lowered graph has enough layers to pay for conversions at both of its ends."""
    return sum(_worth(module, node) for node in module.graph.nodes) >= ENOUGH


def _worth(module: fx.GraphModule, node: fx.Node) -> int:
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), DenseConv2d)
    return _WORTH.get(node.target, 0)


def in_layout(
    module: fx.GraphModule, dtype: torch.dtype | None, outputs: Sequence[Any], channels_last: bool
) -> fx.GraphModule:
    """A twin of a lowered graph, on the same weights, in dtype and one order of memory.

    channels_last: from the inputs on, but what reads an image in any layout, or only its shape,
    takes it as it comes. Else everything does. The results lie as outputs do, the model's own.
    """
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    _enter(graph, dtype, channels_last)
    _leave(graph, outputs)
    twin = fx.GraphModule(module, graph)
    twin.graph.eliminate_dead_code()
    twin.graph.lint()
    twin.recompile()
    return twin


def _enter(graph: fx.Graph, dtype: torch.dtype | None, channels_last: bool) -> None:
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    for node in placeholders:
        value = node.meta["val"]
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        users, last, entered = list(node.users), placeholders[-1], node
        if dtype is not None:
            with graph.inserting_after(last):
                last = entered = graph.call_function(aten.to.dtype, (entered, dtype))
        in_layout = entered
        converted = channels_last and value.dim() == 4
        if converted and not all(user.target in _ANY_LAYOUT for user in users):
            with graph.inserting_after(last):
                in_layout = _contiguous(graph, entered, torch.channels_last)
        for user in users:
            any_layout = user.target in _ANY_LAYOUT
            user.replace_input_with(node, entered if any_layout else in_layout)
    for node in graph.find_nodes(op="call_function", target=aten.unsqueeze.default):
        if channels_last and makes_image(node):
            _turn(graph, node)


def _turn(graph: fx.Graph, node: fx.Node) -> None:
    with graph.inserting_after(node):
        turned = _contiguous(graph, node, torch.channels_last)
    node.replace_all_uses_with(turned, delete_user_cb=lambda user: user is not turned)


def _leave(graph: fx.Graph, outputs: Sequence[Any]) -> None:
    last = graph.output_node()
    results: list[Any] = list(last.args[0])  # type: ignore[arg-type]
    for i, (node, output) in enumerate(zip(results, outputs, strict=True)):
        if not isinstance(node, fx.Node) or not isinstance(output, Tensor):
            continue
        if output.dim() == 4 or (output.dim() == 3 and output.is_contiguous()):
            with graph.inserting_before(last):
                results[i] = _contiguous(graph, node, memory_format_of(output))
    last.args = (tuple(results),)


def _contiguous(graph: fx.Graph, node: fx.Node, layout: torch.memory_format) -> fx.Node:
    kwargs: dict[str, Any] = {} if layout is torch.contiguous_format else {"memory_format": layout}
    return graph.call_function(aten.contiguous.default, (node,), kwargs)
