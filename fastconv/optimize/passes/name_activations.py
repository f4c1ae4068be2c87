"""Activations that a model spells out."""

from typing import Any

import torch
from torch import fx

from fastconv.optimize.conv import activation_of

aten = torch.ops.aten


def name_activations(module: fx.GraphModule) -> None:
    """silu, hardsigmoid, hardswish and relu by the names that other passes know.

    x * sigmoid(x), relu6(x + 3) / 6, x * hardsigmoid(x) in either order, x * relu6(x + 3) / 6,
    and the larger of x and zeros.
    """
    for node in list(module.graph.nodes):
        for named in (_hardsigmoid, _gated, _divided, _relu):
            found = named(node)
            if found is not None:
                target, source = found
                with module.graph.inserting_before(node):
                    new = module.graph.call_function(target, (source,))
                new.meta = dict(node.meta)
                node.replace_all_uses_with(new)
                module.graph.erase_node(node)
                break
    module.graph.eliminate_dead_code()


def _hardsigmoid(node: fx.Node) -> Any:
    source = _relu6_of_3_more(_sixth(node))
    return None if source is None else (aten.hardsigmoid.default, source)


def _divided(node: fx.Node) -> Any:
    """x * relu6(x + 3) / 6."""
    product = _sixth(node)
    if product is None or product.target is not aten.mul.Tensor:
        return None
    for source, gate in (product.args, product.args[::-1]):
        if isinstance(source, fx.Node) and _relu6_of_3_more(gate) is source:
            return aten.hardswish.default, source
    return None


def _gated(node: fx.Node) -> Any:
    names = {
        aten.sigmoid.default: aten.silu.default,
        aten.hardsigmoid.default: aten.hardswish.default,
    }
    if node.target is not aten.mul.Tensor:
        return None
    for source, gate in (node.args, node.args[::-1]):
        if isinstance(gate, fx.Node) and gate.target in names and gate.args == (source,):
            return names[gate.target], source
    return None


def _relu(node: fx.Node) -> Any:
    if node.target is not aten.maximum.default and node.target is not aten.max.other:
        return None
    sides: Any = node.args
    for source, zeros in (sides, sides[::-1]):
        if isinstance(zeros, fx.Node) and zeros.target is aten.zeros_like.default:
            before, after = source.meta["val"], node.meta["val"]
            if (before.shape, before.dtype) != (after.shape, after.dtype):
                return None  # zeros of more values, to which source is repeated
            return aten.relu.default, source
    return None


def _sixth(node: fx.Node) -> fx.Node | None:
    """What node divides by six."""
    source, by = node.args if len(node.args) == 2 else (None, None)
    if not isinstance(source, fx.Node) or not isinstance(by, (int, float)):
        return None
    divides = node.target is aten.div.Tensor and by == 6
    multiplies = node.target is aten.mul.Tensor and abs(by - 1 / 6) < 1e-7
    return source if divides or multiplies else None


def _relu6_of_3_more(node: Any) -> fx.Node | None:
    """x of relu6(x + 3)."""
    if node is None or activation_of(node) != "relu6":
        return None
    add = node.args[0]
    plain = add.target is aten.add.Tensor and not add.kwargs
    return add.args[0] if plain and add.args[1] == 3 else None
