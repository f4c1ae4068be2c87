"""The one form every convolution of a captured graph takes while the passes work on it.

A convolution node calls `conv2d` below with all arguments by name, so a pass reads and writes
node.kwargs; the graph runs at every stage, which is how the passes are tested.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fastconv.ops._window import edges, pair
from fastconv.ops.conv2d import is_depthwise, is_pointwise
from fastconv.ops.stem_conv2d import MOST_STEM_CHANNELS
from fastconv.reference import activate

aten = torch.ops.aten


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],  # top, left, bottom, right
    dilation: list[int],
    groups: int,
    activation: str | None,
) -> Tensor:
    """activation(conv2d(padded input) + bias + residual)."""
    top, left, bottom, right = padding
    padded = F.pad(input, (left, right, top, bottom))
    z = F.conv2d(padded, weight, bias, stride, 0, dilation, groups)
    return activate(z if residual is None else z + residual, activation)


def is_conv(node: object) -> bool:
    return isinstance(node, fx.Node) and node.target is conv2d


def is_depthwise_node(node: fx.Node) -> bool:
    return is_depthwise(shape_of(node.kwargs["weight"]), node.kwargs["groups"])  # type: ignore


def is_pointwise_node(node: fx.Node) -> bool:
    weight, groups, padding = (node.kwargs[name] for name in ("weight", "groups", "padding"))
    return is_pointwise(shape_of(weight), groups, padding)  # type: ignore[arg-type]


def is_stem_node(node: fx.Node) -> bool:
    """Whether stem_conv2d serves it: few channels in, which oneDNN reads from a copied layout."""
    plain = node.kwargs["groups"] == 1 and node.kwargs["dilation"] == [1, 1]
    few = shape_of(node.kwargs["weight"])[1] <= MOST_STEM_CHANNELS
    return bool(plain and few and node.kwargs["residual"] is None)


def is_dense_node(node: fx.Node) -> bool:
    """Whether dense_conv2d serves it: windows over all channels, in float32 on the CPU."""
    weight = node.kwargs["weight"]
    assert isinstance(weight, fx.Node)
    value, constant = weight.meta["val"], weight.op == "get_attr"
    fits = constant and value.is_cpu and value.dtype == torch.float32
    other = is_pointwise_node(node) or is_stem_node(node)
    return bool(fits and node.kwargs["groups"] == 1 and not other)


def shape_of(node: object) -> torch.Size:
    """The shape a node had when the graph was captured; its batch may be symbolic."""
    assert isinstance(node, fx.Node)
    return node.meta["val"].shape


def layer_of(node: fx.Node) -> str:
    """The layer of the model that a node was: a module's name, or its weight's where a function was
    called with one; '' for what the model does itself."""
    if "layer" in node.meta:
        return str(node.meta["layer"])
    weight: Any = node.kwargs.get("weight", node.args[1] if len(node.args) > 1 else None)
    name = weight.meta.get("name", "") if isinstance(weight, fx.Node) else ""
    paths = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    path = paths[-1] if paths and not paths[-1].startswith("_empty") else ""
    return str(name.removesuffix(".weight") or path)


def only_user(node: fx.Node) -> fx.Node | None:
    """The single user of a node, None where there are several."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def activation_of(node: Any) -> str | None:
    """The name of the activation a node computes, None for any other node."""
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return None
    simple = {
        aten.relu.default: "relu",
        aten.relu6.default: "relu6",
        aten.silu.default: "silu",
        aten.hardswish.default: "hardswish",
    }
    if node.target in simple:
        return simple[node.target]
    if node.target in (aten.hardtanh.default, aten.clamp.default):
        bounds: Any = (*node.args[1:], *node.kwargs.values())
        return {(0, 6): "relu6", (0,): "relu", (0, None): "relu"}.get(bounds)
    if node.target is aten.clamp_min.default and node.args[1] == 0:
        return "relu"
    return None


def arguments_of(node: fx.Node) -> dict:
    """A node's arguments by the names of its schema, defaults filled in."""
    assert isinstance(node.target, torch._ops.OpOverload)
    schema = node.target._schema.arguments
    values = {argument.name: argument.default_value for argument in schema}
    values.update(zip((argument.name for argument in schema), node.args, strict=False))
    values.update(node.kwargs)
    return values


def _canonical(node: fx.Node) -> dict | None:
    """The arguments of `conv2d` for a node that is a convolution in another form."""
    kinds = (
        aten.conv2d.default,
        aten.conv2d.padding,
        torch.ops.fastconv.depthwise_conv2d.default,
        torch.ops.fastconv.pointwise_conv2d.default,
    )
    if node.op != "call_function" or node.target not in kinds:
        return None
    given = arguments_of(node)
    kernel = shape_of(given["weight"])[2:]
    stride = pair("conv2d", "stride", given["stride"])
    dilation = pair("conv2d", "dilation", given.get("dilation", 1))
    padding = edges("conv2d", given.get("padding", 0), kernel, stride, dilation)
    depthwise = node.target is torch.ops.fastconv.depthwise_conv2d.default
    input_channels = int(shape_of(given["input"])[1])
    return {
        "input": given["input"],
        "weight": given["weight"],
        "bias": given["bias"],
        "residual": given.get("residual"),
        "stride": list(stride),
        "padding": list(padding),
        "dilation": list(dilation),
        "groups": input_channels if depthwise else given.get("groups", 1),
        "activation": given.get("activation"),
    }


def canonicalize(graph: fx.GraphModule) -> None:
    """Turns every convolution over a batch of images into a call of `conv2d`."""
    for node in list(graph.graph.nodes):
        kwargs = _canonical(node)
        if kwargs is None or len(shape_of(kwargs["input"])) != 4:
            continue
        with graph.graph.inserting_before(node):
            new = graph.graph.call_function(conv2d, kwargs=kwargs)
        new.meta = {**node.meta, "layer": layer_of(node)}
        node.replace_all_uses_with(new)
        graph.graph.erase_node(node)
