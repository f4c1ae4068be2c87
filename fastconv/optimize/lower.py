"""Packed weights, and a kernel for every convolution."""

from typing import Any

import torch
from torch import fx, nn

from fastconv.ops.conv2d import no_kernel
from fastconv.optimize.capture import constant
from fastconv.optimize.conv import (
    is_conv,
    is_dense_node,
    is_depthwise_node,
    is_pointwise_node,
    is_stem_node,
    layer_of,
    shape_of,
)
from fastconv.optimize.dense import DenseConv2d
from fastconv.optimize.fuse_blocks import why_alone
from fastconv.optimize.pack import pack_weight
from fastconv.optimize.receipt import row, written

aten = torch.ops.aten


def lower(module: fx.GraphModule, dtype: torch.dtype | None) -> list[dict[str, Any]]:
    """Gives every conv its kernel; returns the receipt, a row a layer."""
    lower_layers(module, dtype)
    keep_used_buffers(module, dtype)
    return list(written(module.graph))


def lower_layers(module: fx.GraphModule, dtype: torch.dtype | None) -> None:
    """Gives every conv its kernel: ours where there is one, unless a race chose torch's."""
    for node in list(module.graph.nodes):
        if is_conv(node):
            _lower_conv(module, node, dtype)
        elif node.target is aten.view.default:
            node.target = aten.reshape.default  # the pixels may now lie in another order
    module.graph.eliminate_dead_code()


def _lower_conv(module: fx.GraphModule, node: fx.Node, dtype: torch.dtype | None) -> None:
    kernel, reason = _kernel(node, dtype)
    pack_weight(module, node, dtype, for_torch=kernel == "torch")
    given = node.kwargs
    with module.graph.inserting_before(node):
        if kernel == "torch":
            lowered = _call_torch(module, node)
        else:
            arguments = tuple(given[name] for name in _ARGUMENTS[kernel])
            target = getattr(torch.ops.fastconv, kernel).default
            lowered = module.graph.call_function(target, arguments)
    lowered.meta = dict(node.meta)
    lowered.meta["receipt"] = row(
        layer_of(node),
        kernel,
        weight=list(shape_of(given["weight"])),
        activation=given["activation"],  # type: ignore[arg-type]
        residual=given["residual"] is not None,
        folded=node.meta.get("folded"),
        reason=reason,
        measured=node.meta.get("measured"),
    )
    node.replace_all_uses_with(lowered)
    module.graph.erase_node(node)


_WINDOW = ("stride", "padding", "dilation")
_ARGUMENTS = {
    "dense_conv2d": ("input", "weight", "bias", "residual", *_WINDOW, "activation"),
    "depthwise_conv2d": ("input", "weight", "bias", *_WINDOW, "activation"),
    "pointwise_conv2d": ("input", "weight", "bias", "residual", "stride", "activation"),
    "stem_conv2d": ("input", "weight", "bias", *_WINDOW[:2], "activation"),
}


def _kernel(node: fx.Node, dtype: torch.dtype | None) -> tuple[str, str | None]:
    """What serves a convolution, and why where there was a choice."""
    if node.meta.get("way") == "torch":
        return "torch", node.meta.get("why", "ours was slower here")
    if is_depthwise_node(node):
        return "depthwise_conv2d", why_alone(node)
    if is_pointwise_node(node):
        return "pointwise_conv2d", None
    if is_stem_node(node):
        return "stem_conv2d", None
    if is_dense_node(node) and dtype in (None, torch.float32):
        return "dense_conv2d", "by Winograd's products" if node.meta.get("winograd") else None
    groups: Any = node.kwargs["groups"]
    return "torch", no_kernel(shape_of(node.kwargs["weight"]), groups)


def _call_torch(module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """A call of torch's convolution; the residual, which it has no place for, is added by ours."""
    given: dict[str, Any] = node.kwargs
    residual, activation = given["residual"], given["activation"]
    weight = constant(module, given["weight"])
    fused = activation if residual is None else None
    settings = (*(given[name] for name in _WINDOW), given["groups"], fused)
    dense = DenseConv2d(weight, *settings)
    name = next((name for name, m in module.named_children() if _is_like(m, dense)), None)
    if name is None:
        name = f"{node.name}_conv"
        module.add_submodule(name, dense)
    computed = () if weight is not None else (given["weight"],)
    lowered = module.graph.call_module(name, (given["input"], given["bias"], *computed))
    if residual is None:
        return lowered
    add = torch.ops.fastconv.residual_add.default
    return module.graph.call_function(add, (lowered, residual, activation))


def _is_like(module: nn.Module, dense: DenseConv2d) -> bool:
    """Whether module is the same layer, of a model that calls it at several places."""
    if not isinstance(module, DenseConv2d) or dense.weight is None:
        return False
    same = ("arguments", "pad", "activation")
    return module.weight is dense.weight and all(
        getattr(module, name) == getattr(dense, name) for name in same
    )


# The arguments that an op takes in float32 beside a bfloat16 input: it computes with them in
# float32 anyway.
_READ_WIDE: dict[Any, set[int]] = {
    torch.ops.fastconv.pointwise_conv2d.default: {2},
    torch.ops.fastconv.stem_conv2d.default: {2},
    torch.ops.fastconv.inverted_residual.default: {2, 3, 4, 6},
    torch.ops.fastconv.separable_conv2d.default: {1, 2, 4},
}


def keep_used_buffers(module: fx.GraphModule, dtype: torch.dtype | None) -> None:
    """Drops constants that no node reads any more; the others take the dtype of the module.

    But what our kernels on the CPU read in float32 beside bfloat16 is float32.
    """
    module.graph.eliminate_dead_code()
    reads = [node for node in module.graph.nodes if node.op == "get_attr"]
    used = {str(node.target) for node in reads}
    narrow = {
        str(node.target)
        for node in reads
        if not all(_is_read_wide(node, user) for user in node.users)
    }
    wide = used - narrow
    for name in list(module._buffers):
        if name not in used:
            delattr(module, name)
    for owner in module.modules():
        for name, value in owner._buffers.items():
            if value is None or not value.is_floating_point():
                continue
            own = dtype or value.dtype
            is_wide = own == torch.bfloat16 and value.is_cpu and owner is module and name in wide
            owner._buffers[name] = value.to(torch.float32 if is_wide else own)


def _is_read_wide(read: fx.Node, user: fx.Node) -> bool:
    """Whether user reads a constant, and only as an argument that may be float32."""
    places = {i for i, argument in enumerate(user.args) if argument is read}
    return bool(places) and places <= _READ_WIDE.get(user.target, set())
