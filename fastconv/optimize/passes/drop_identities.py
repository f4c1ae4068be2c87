"""Nodes that give back their input."""

from typing import Any

import torch
from torch import fx

from fastconv.optimize.conv import arguments_of, shape_of

aten = torch.ops.aten

_END = 2**63 - 1  # of a slice, where none is given
_ELEMENTWISE = (aten.mul.Tensor, aten.add.Tensor)
_COPIES = (aten.clone.default, aten.alias.default, aten.detach.default)


def drop_identities(module: fx.GraphModule) -> None:
    """Removes what does nothing at inference: dropout's clones, unused batch-norm outputs, casts
    to the dtype and pooling to the size that is there, slices of everything, expansions that an
    elementwise op does itself, and torch's own checks of what it captured."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is aten._assert_tensor_metadata.default:
            graph.erase_node(node)
            continue
        if node.op == "call_function" and _is_identity(node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    graph.eliminate_dead_code()


def _is_identity(node: fx.Node) -> bool:
    if node.target in _COPIES:
        return not node.kwargs
    if node.target is aten._to_copy.default:
        source: Any = node.args[0]
        same = source.meta["val"].dtype == node.meta["val"].dtype
        return same and set(node.kwargs) <= {"dtype"}
    if node.target is aten.slice.Tensor:
        given = arguments_of(node)
        return given["start"] in (None, 0) and given["end"] in (None, _END) and given["step"] == 1
    if node.target is aten.expand.default:
        return all(_broadcasts_alone(node, user) for user in node.users)
    if node.target is not aten.adaptive_avg_pool2d.default:
        return False
    sizes: Any = shape_of(node.args[0])[-2:]
    fixed = all(isinstance(size, int) for size in sizes)  # a comparison would fix an open one
    return fixed and list(sizes) == list(node.args[1])  # type: ignore[arg-type]


def _broadcasts_alone(expand: fx.Node, user: fx.Node) -> bool:
    """Whether user would give the same with what expand expands: its other side is as large."""
    others = [side for side in user.args if side is not expand]
    return (
        user.target in _ELEMENTWISE
        and len(others) == 1
        and isinstance(others[0], fx.Node)
        and shape_of(others[0]) == shape_of(expand)
    )
