"""What was done to each layer, what was not, and why: the rows of a receipt."""

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from fastconv.optimize.conv import activation_of, layer_of
from fastconv.optimize.passes.lift_rows import RESHAPES

aten = torch.ops.aten

# What only looks at numbers from another side, or copies them: no layer.
_NO_LAYERS = (
    *RESHAPES,
    aten.permute.default,
    aten.transpose.int,
    aten.t.default,
    aten.select.int,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.expand.default,
    aten.unfold.default,
    aten.contiguous.default,
    aten.clone.default,
    aten.to.dtype,
    aten._to_copy.default,
    aten.sym_size.int,
    operator.getitem,
)


def row(
    layer: str,
    kernel: str,
    *,
    weight: list[int] | None = None,
    activation: str | None = None,
    residual: bool = False,
    reason: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A row: which layer of the model, what serves it, what it took in, and why where it was open.

    layer is the name of a module of the model; of a call of torch's functions, that of the weight,
    or of the module it is called in ('' for the model itself). kernel is an op of ours or 'torch'.
    """
    found = {
        "layer": layer,
        "weight": weight,
        "kernel": kernel,
        "activation": activation,
        "residual": residual,
    }
    found |= {"reason": reason} if reason else {}
    return found | {name: value for name, value in more.items() if value}


def of_node(node: fx.Node) -> dict[str, Any] | None:
    """The row of an op that no pass wrote one for, None for what is no layer."""
    target: Any = node.target
    if node.op != "call_function" or target in _NO_LAYERS:
        return None
    if not isinstance(target, torch._ops.OpOverload):
        return None
    namespace, _, name = target._schema.name.partition("::")
    if namespace == "fastconv":
        activation = node.args[-1] if name == "residual_add" and len(node.args) == 3 else None
        activation = node.kwargs.get("activation", activation)
        return row(layer_of(node), name, activation=activation)  # type: ignore[arg-type]
    if not isinstance(node.meta.get("val"), (Tensor, tuple, list)):
        return None  # of sizes
    return row(layer_of(node), "torch", op=name, reason=_why_torch(node, name))


def _why_torch(node: fx.Node, name: str) -> str:
    if node.meta.get("way") == "torch":
        return "ours was slower here"
    if activation_of(node) is not None:
        return "follows no layer of ours, or one whose result is read elsewhere too"
    if name == "linear":
        return "over more than rows of features"
    return "no kernel of ours"


def written(graph: fx.Graph) -> Iterator[dict[str, Any]]:
    """The rows of a lowered graph in the order of its layers."""
    for node in graph.nodes:
        found = node.meta.get("receipt") or of_node(node)
        if found is not None:
            if "measured" in node.meta:
                found.setdefault("measured", node.meta["measured"])
            yield found
