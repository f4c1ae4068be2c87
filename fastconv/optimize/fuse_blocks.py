"""Chains of pointwise and depthwise convolutions become one fused block where that is faster."""

from typing import Any, NamedTuple

import torch
from torch import fx

from fastconv.optimize.capture import constant
from fastconv.optimize.conv import (
    is_conv,
    is_depthwise_node,
    is_pointwise_node,
    layer_of,
    only_user,
    shape_of,
)
from fastconv.optimize.pack import pack_weight
from fastconv.optimize.receipt import row

FUSED_DTYPES = (torch.float32, torch.bfloat16)

aten = torch.ops.aten

_GATES: dict[Any, str] = {aten.sigmoid.default: "sigmoid", aten.hardsigmoid.default: "hardsigmoid"}


class Squeeze(NamedTuple):
    """A squeeze-and-excitation of the graph: its two convolutions and the name of its gate."""

    reduce: fx.Node
    expand: fx.Node
    gate: str


class Block(NamedTuple):
    """What one op can do: its convolutions in their order, and what weighs the channels within."""

    op: str
    convs: list[fx.Node]
    squeeze: Squeeze | None


def fuse_blocks(module: fx.GraphModule, dtype: torch.dtype | None) -> None:
    """Replaces (expand ->) depthwise (-> squeeze-and-excitation) -> project by one op.

    Wherever the op has a fused kernel: that was at least as fast as the parts on every block of
    MobileNetV2, EfficientNet-Lite0 and MobileNetV1 at 224x224 (one core of a Zen 5, packed weights,
    in turn, medians of ratios): 1.04 to 1.38 times as fast at batch 1, 1.01 to 2.35 at batch 16,
    most on large maps and least on 7x7. With squeeze-and-excitation, the blocks of EfficientNet-B0:
    1.17 to 1.45 times as fast at batch 1, 1.20 to 2.68 at batch 16, measured alike. What a race
    decided to leave in parts (measure.py) stays so. A new node has its row of the receipt in
    meta["receipt"].
    """
    for node in list(module.graph.nodes):
        block = block_ending_in(module, node, dtype)
        if block is not None and node.meta.get("way") in (None, "block"):
            _replace(module, block, dtype)
    module.graph.eliminate_dead_code()


def block_ending_in(
    module: fx.GraphModule, node: fx.Node, dtype: torch.dtype | None
) -> Block | None:
    """The largest block whose last convolution is node, None where no op does it."""
    if not is_conv(node) or not _is_plain_pointwise(node):
        return None
    depthwise, squeeze = _hidden(node)
    if depthwise is None:
        return None
    convs = [depthwise, node, *([] if squeeze is None else squeeze[:2])]
    if not _has_kernel(module, convs, dtype):
        return None
    if squeeze is not None and _dtype_of(module, node, dtype) != torch.float32:
        return None
    expand = _only_reader(depthwise, depthwise.kwargs["input"], is_pointwise_node)
    if expand is not None and _is_expansion(module, expand, depthwise, node, dtype):
        return Block("inverted_residual", [expand, depthwise, node], squeeze)
    return Block("separable_conv2d", [depthwise, node], squeeze)


def why_alone(depthwise: fx.Node) -> str:
    """Why a depthwise convolution is in no block."""
    reader = only_user(depthwise)
    if reader is None:
        return "not in a block: its result is read more than once"
    if not is_conv(reader) or not _is_plain_pointwise(reader):
        return "not in a block: no 1x1 convolution is all that reads it"
    if reader.meta.get("way") == "parts":
        return "the block was slower here"
    return "not in a block: none has a kernel for its size, stride, dilation or dtype"


def _hidden(project: fx.Node) -> tuple[fx.Node | None, Squeeze | None]:
    """The depthwise convolution whose output project reads, and what weighs it between them."""
    source: Any = project.kwargs["input"]
    if source.target is not aten.mul.Tensor:
        return _only_reader(project, source, is_depthwise_node), None
    for depthwise, gate in (source.args, source.args[::-1]):
        squeeze = _squeeze(depthwise, gate)
        if squeeze is not None and only_user(source) is project and only_user(gate) is source:
            return depthwise, squeeze
    return None, None


def _squeeze(depthwise: Any, gate: Any) -> Squeeze | None:
    """The squeeze-and-excitation of the channels of depthwise that ends in gate, if it is one."""
    if not (is_conv(depthwise) and is_depthwise_node(depthwise) and isinstance(gate, fx.Node)):
        return None
    expand: Any = gate.args[0] if gate.target in _GATES else None
    if not is_conv(expand) or not _is_plain_pointwise(expand) or only_user(expand) is not gate:
        return None
    reduce = _only_reader(expand, expand.kwargs["input"], is_pointwise_node)
    if reduce is None or not _is_plain_pointwise(reduce):
        return None
    plain = expand.kwargs["activation"] is expand.kwargs["residual"] is reduce.kwargs["residual"]
    mean: Any = reduce.kwargs["input"]
    alone = only_user(mean) is reduce and len(depthwise.users) == 2
    fits = plain and alone and expand.kwargs["activation"] is None and _is_mean(mean, depthwise)
    return Squeeze(reduce, expand, _GATES[gate.target]) if fits else None


def _is_mean(node: fx.Node, input: fx.Node) -> bool:
    """Whether node is the mean of input over its pixels, in the shape (N, C, 1, 1)."""
    if not node.args or node.args[0] is not input:
        return False
    if node.target in (aten.adaptive_avg_pool2d.default, aten._adaptive_avg_pool2d.default):
        return list(node.args[1]) == [1, 1]  # type: ignore[arg-type]
    if node.target is not aten.mean.dim or node.kwargs or len(node.args) != 3:
        return False
    return {dim % 4 for dim in node.args[1]} == {2, 3} and node.args[2] is True  # type: ignore


def _only_reader(node: fx.Node, source: Any, kind: Any) -> fx.Node | None:
    """source, where it is a convolution of this kind that node reads and no other node."""
    fits = is_conv(source) and kind(source) and only_user(source) is node
    return source if fits and node.kwargs["residual"] is not source else None


def _is_plain_pointwise(node: fx.Node) -> bool:
    return is_pointwise_node(node) and node.kwargs["stride"] == [1, 1]


def _has_kernel(module: fx.GraphModule, convs: list[fx.Node], dtype: torch.dtype | None) -> bool:
    """Whether the op has a fused kernel for a depthwise convolution followed by a pointwise one."""
    depthwise: dict[str, Any] = convs[0].kwargs
    out_channels, _, height, width = shape_of(depthwise["weight"])
    (rows, columns), dilation = depthwise["stride"], depthwise["dilation"]
    return (
        all(_dtype_of(module, conv, dtype) in FUSED_DTYPES for conv in convs)
        and out_channels == shape_of(depthwise["input"])[1]
        and height == width
        and height in (3, 5, 7)
        and rows == columns
        and rows <= 2
        and dilation == [1, 1]
        and depthwise["residual"] is None
    )


def _dtype_of(
    module: fx.GraphModule, conv: fx.Node, dtype: torch.dtype | None
) -> torch.dtype | None:
    """What a convolution computes in, None where its weight is no constant."""
    weight = constant(module, conv.kwargs["weight"])
    return None if weight is None else dtype or weight.dtype


def _is_expansion(
    module: fx.GraphModule,
    expand: fx.Node,
    depthwise: fx.Node,
    project: fx.Node,
    dtype: torch.dtype | None,
) -> bool:
    computes_in = _dtype_of(module, expand, dtype)
    pairs = shape_of(expand.kwargs["weight"])[1] % 2 == 0  # of channels, as bfloat16 wants them
    return (
        _is_plain_pointwise(expand)
        and (computes_in == torch.float32 or (computes_in == torch.bfloat16 and pairs))
        and expand.kwargs["residual"] is None
        and expand.kwargs["activation"] == depthwise.kwargs["activation"]
        and project.kwargs["activation"] is None
        and project.kwargs["residual"] in (None, expand.kwargs["input"])
    )


def _replace(module: fx.GraphModule, found: Block, dtype: torch.dtype | None) -> None:
    op, convs, squeeze = found
    *_, depthwise, project = convs
    inner = [] if squeeze is None else [squeeze.reduce, squeeze.expand]
    weights: dict[fx.Node, list[Any]] = {}
    for conv in (*convs, *inner):
        pack_weight(module, conv, dtype, in_panels=conv not in inner)
        weights[conv] = [conv.kwargs["weight"], conv.kwargs["bias"]]
    excite = [None] * 4 if squeeze is None else weights[squeeze.reduce] + weights[squeeze.expand]
    residual, activation = project.kwargs["residual"], depthwise.kwargs["activation"]
    window = [depthwise.kwargs[name] for name in ("stride", "padding")]
    arguments: list[Any] = [convs[0].kwargs["input"]]
    for conv in convs:
        arguments += weights[conv]
    if op == "inverted_residual":
        arguments += [*excite, *window, activation, residual is not None]
    else:
        end = project.kwargs["activation"]
        arguments += [residual, *excite, *window, [1, 1], activation, end]
    if squeeze is not None:
        arguments += [squeeze.reduce.kwargs["activation"], squeeze.gate]
    with module.graph.inserting_before(project):
        target = getattr(torch.ops.fastconv, op).default
        block = module.graph.call_function(target, tuple(arguments))
    block.meta = dict(project.meta)
    inside = None
    if squeeze is not None:
        reduced_by = squeeze.reduce.kwargs["activation"]
        names = [layer_of(conv) for conv in inner]
        inside = {"parts": names, "activation": reduced_by, "gate": squeeze.gate}
    block.meta["receipt"] = row(
        layer_of(project),
        op,
        weight=list(shape_of(project.kwargs["weight"])),
        activation=activation,  # type: ignore[arg-type]
        residual=residual is not None,
        parts=[layer_of(conv) for conv in convs],
        folded=[name for conv in convs for name in conv.meta.get("folded", [])],
        squeeze=inside,
        measured=project.meta.get("measured"),
    )
    project.replace_all_uses_with(block)
