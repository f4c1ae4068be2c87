"""The last step: one layout, packed weights, and a kernel for every convolution."""

from typing import Any

import torch
from torch import Tensor, fx

from fastconv.optimize.capture import constant
from fastconv.optimize.conv import (
    is_conv,
    is_depthwise_node,
    is_pointwise_node,
    is_stem_node,
    shape_of,
)
from fastconv.optimize.dense import DenseConv2d
from fastconv.optimize.pack import pack_weight

aten = torch.ops.aten

_ANY_LAYOUT = (torch.ops.fastconv.stem_conv2d.default, aten.sym_size.int)


def lower(module: fx.GraphModule, dtype: torch.dtype | None) -> list[dict[str, Any]]:
    """Gives every conv its kernel and the graph one layout; returns the receipt, a row a layer."""
    receipt = []
    for node in list(module.graph.nodes):
        if is_conv(node):
            receipt.append(_lower_conv(module, node, dtype))
        elif "receipt" in node.meta:
            receipt.append(node.meta["receipt"])
        elif node.target is aten.view.default:
            node.target = aten.reshape.default  # the pixels may now lie in another order
    _one_layout(module.graph, dtype)
    _keep_used_buffers(module, dtype)
    module.graph.lint()
    module.recompile()
    return receipt


def _lower_conv(module: fx.GraphModule, node: fx.Node, dtype: torch.dtype | None) -> dict[str, Any]:
    if is_depthwise_node(node):
        kernel = "depthwise_conv2d"
        names = ["input", "weight", "bias", "stride", "padding", "dilation", "activation"]
    elif is_pointwise_node(node):
        kernel = "pointwise_conv2d"
        names = ["input", "weight", "bias", "residual", "stride", "activation"]
    elif is_stem_node(node):
        kernel = "stem_conv2d"
        names = ["input", "weight", "bias", "stride", "padding", "activation"]
    else:
        kernel = "torch"
        names = ["input", "weight", "bias"]

    weight: Any = node.kwargs["weight"]
    layer = str(weight if constant(module, weight) is None else weight.target)
    pack_weight(module, node, dtype)
    given = node.kwargs
    with module.graph.inserting_before(node):
        arguments = tuple(given[name] for name in names)
        if kernel == "torch":
            settings = ("stride", "padding", "dilation", "groups", "activation")
            dense = DenseConv2d(*(given[name] for name in settings))  # type: ignore[arg-type]
            module.add_submodule(f"{layer}_conv", dense)
            lowered = module.graph.call_module(f"{layer}_conv", arguments)
        else:
            lowered = module.graph.call_function(
                getattr(torch.ops.fastconv, kernel).default, arguments
            )
    lowered.meta = dict(node.meta)
    node.replace_all_uses_with(lowered)
    module.graph.erase_node(node)
    return {
        "layer": layer,
        "weight": list(shape_of(given["weight"])),
        "kernel": kernel,
        "activation": given["activation"],
        "residual": given["residual"] is not None,
    }


def _one_layout(graph: fx.Graph, dtype: torch.dtype | None) -> None:
    """channels_last from the inputs on, in dtype; the outputs are contiguous as the model's own.

    What reads an image in any layout, or only its shape, takes it as it comes.
    """
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
        if value.dim() == 4 and not all(user.target in _ANY_LAYOUT for user in users):
            with graph.inserting_after(last):
                kwargs: dict[str, Any] = {"memory_format": torch.channels_last}
                in_layout = graph.call_function(aten.contiguous.default, (entered,), kwargs)
        for user in users:
            any_layout = user.target in _ANY_LAYOUT
            user.replace_input_with(node, entered if any_layout else in_layout)

    def leave(node: fx.Node) -> fx.Node:
        value = node.meta.get("val")
        if not isinstance(value, Tensor) or value.dim() != 4:
            return node
        return graph.call_function(aten.contiguous.default, (node,))

    output = graph.output_node()
    with graph.inserting_before(output):
        output.args = fx.map_arg(output.args, leave)


def _keep_used_buffers(module: fx.GraphModule, dtype: torch.dtype | None) -> None:
    """Drops constants that no node reads any more; the others take the dtype of the module."""
    module.graph.eliminate_dead_code()
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name, value in list(module.named_buffers()):
        if name not in used:
            delattr(module, name)
        elif dtype is not None and value.is_floating_point():
            setattr(module, name, value.to(dtype))
