"""Chains of pointwise and depthwise convolutions become one fused block where that is faster."""

from typing import Any

import torch
from torch import fx

from fastconv.optimize.capture import constant
from fastconv.optimize.conv import (
    is_conv,
    is_depthwise_node,
    is_pointwise_node,
    only_user,
    shape_of,
)
from fastconv.optimize.pack import pack_weight

FUSED_DTYPES = (torch.float32, torch.bfloat16)


def fuse_blocks(module: fx.GraphModule, dtype: torch.dtype | None) -> None:
    """Replaces expand -> depthwise -> project and depthwise -> pointwise by one op each.

    Wherever the op has a fused kernel: that was at least as fast as the parts on every block of
    MobileNetV2, EfficientNet-Lite0 and MobileNetV1 at 224x224 (one core of a Zen 5, packed weights,
    in turn, medians of ratios): 1.04 to 1.38 times as fast at batch 1, 1.01 to 2.35 at batch 16,
    most on large maps and least on 7x7. A new node has its row of the receipt in meta["receipt"].
    """
    for node in list(module.graph.nodes):
        depthwise = _only_reader(node, is_depthwise_node)
        if depthwise is None or not _is_plain_pointwise(node):
            continue
        if not _has_kernel(module, [depthwise, node], dtype):
            continue
        expand = _only_reader(depthwise, is_pointwise_node)
        if expand is not None and _is_expansion(module, expand, depthwise, node, dtype):
            _replace(module, "inverted_residual", [expand, depthwise, node], dtype)
        else:
            _replace(module, "separable_conv2d", [depthwise, node], dtype)
    module.graph.eliminate_dead_code()


def _only_reader(node: fx.Node, kind: Any) -> fx.Node | None:
    """The convolution of this kind that makes the input of node, and of no other node."""
    if not is_conv(node):
        return None
    source: Any = node.kwargs["input"]
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


def _replace(
    module: fx.GraphModule, op: str, convs: list[fx.Node], dtype: torch.dtype | None
) -> None:
    *_, depthwise, project = convs
    arguments: list[Any] = [convs[0].kwargs["input"]]
    names = [str(conv.kwargs["weight"].target) for conv in convs]  # type: ignore[union-attr]
    for conv in convs:
        pack_weight(module, conv, dtype)
        arguments += [conv.kwargs["weight"], conv.kwargs["bias"]]
    residual, activation = project.kwargs["residual"], depthwise.kwargs["activation"]
    window = [depthwise.kwargs[name] for name in ("stride", "padding")]
    if op == "inverted_residual":
        arguments += [*window, activation, residual is not None]
    else:
        arguments += [residual, *window, [1, 1], activation, project.kwargs["activation"]]
    with module.graph.inserting_before(project):
        target = getattr(torch.ops.fastconv, op).default
        block = module.graph.call_function(target, tuple(arguments))
    block.meta = dict(project.meta)
    block.meta["receipt"] = {
        "layer": names[-1],
        "weight": list(shape_of(project.kwargs["weight"])),
        "kernel": op,
        "activation": activation,
        "residual": residual is not None,
        "parts": names,
    }
    project.replace_all_uses_with(block)
