"""The passes over a captured graph, in the order they run: fold, absorb, fuse."""

import operator

import torch
from torch import Tensor, fx

from fastconv.ops._window import pair
from fastconv.optimize.capture import constant, read_buffer
from fastconv.optimize.conv import (
    activation_of,
    arguments_of,
    is_conv,
    is_pointwise_node,
    only_user,
    shape_of,
)

aten = torch.ops.aten


def drop_identities(module: fx.GraphModule) -> None:
    """Removes what does nothing at inference: dropout's clones, unused batch-norm outputs, pooling
    to the size that is there."""
    graph = module.graph
    for node in list(graph.nodes):
        copies = node.target in (aten.clone.default, aten.alias.default, aten.detach.default)
        if node.target is aten.adaptive_avg_pool2d.default:
            copies = list(shape_of(node.args[0])[-2:]) == list(node.args[1])
        if node.op == "call_function" and copies and not node.kwargs:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    graph.eliminate_dead_code()


def pool(module: fx.GraphModule) -> None:
    """Max pooling, and the mean over all pixels in either way to write it, become ops of ours."""
    for node in list(module.graph.nodes):
        pools = node.target is aten.adaptive_avg_pool2d.default and list(node.args[1]) == [1, 1]
        if node.target is aten.mean.dim and len(node.args) > 2 and not node.kwargs:
            pools = sorted(d % 4 for d in node.args[1]) == [2, 3] and node.args[2]
        if pools and len(shape_of(node.args[0])) == 4:
            node.target = torch.ops.fastconv.global_avg_pool2d.default
            node.args = node.args[:1]
        if node.target is aten.max_pool2d.default and len(shape_of(node.args[0])) == 4:
            given = arguments_of(node)
            if pair("max_pool2d", "dilation", given["dilation"]) == (1, 1):
                names = ("kernel_size", "stride", "padding")
                given["stride"] = given["stride"] or given["kernel_size"]
                window = [list(pair("max_pool2d", name, given[name])) for name in names]
                node.target = torch.ops.fastconv.max_pool2d.default
                node.args, node.kwargs = (given["self"], *window, given["ceil_mode"]), {}


def fold_batch_norm(module: fx.GraphModule) -> None:
    """conv -> batch norm becomes one conv (Ioffe & Szegedy 2015, section 3.1), in float64.

    w' = w * gamma / sqrt(var + eps), b' = (b - mean) * gamma / sqrt(var + eps) + beta
    """
    graph = module.graph
    for norm in list(graph.nodes):
        if norm.target is not aten._native_batch_norm_legit_no_training.default:
            continue
        conv, gamma, beta, mean, var, _, eps = norm.args
        output = only_user(norm)
        if not is_conv(conv) or only_user(conv) is not norm or conv.kwargs["activation"]:
            continue
        if output is None or output.target is not operator.getitem or output.args[1] != 0:
            continue
        weight = constant(module, conv.kwargs["weight"])
        stats = [constant(module, value) for value in (mean, var)]
        if weight is None or stats[0] is None or stats[1] is None or conv.kwargs["residual"]:
            continue
        optional = (gamma, beta, conv.kwargs["bias"])
        if any(value is not None and constant(module, value) is None for value in optional):
            continue  # computed, as a parametrized bias is
        scale = 1 / (stats[1].double() + eps).sqrt()
        if gamma is not None:
            scale = scale * constant(module, gamma)
        shift = -stats[0].double()
        bias = constant(module, conv.kwargs["bias"])
        if bias is not None:
            shift = shift + bias
        shift = shift * scale
        if beta is not None:
            shift = shift + constant(module, beta)
        name = str(conv.kwargs["weight"].target)
        folded = {
            "weight": (name, weight * scale.view(-1, 1, 1, 1)),
            "bias": (name.removesuffix("weight") + "bias", shift),
        }
        reads = {
            argument: read_buffer(module, conv, f"{name}_folded", value.to(weight.dtype))
            for argument, (name, value) in folded.items()
        }
        conv.kwargs = {**conv.kwargs, **reads}
        output.replace_all_uses_with(conv)
    graph.eliminate_dead_code()


def absorb_padding(module: fx.GraphModule) -> None:
    """Zero padding before a conv becomes the conv's own, which may be asymmetric."""
    for conv in [node for node in module.graph.nodes if is_conv(node)]:
        pad = conv.kwargs["input"]
        if pad.target not in (aten.pad.default, aten.constant_pad_nd.default):
            continue
        widths = list(pad.args[1])
        mode = pad.args[2] if pad.target is aten.pad.default and len(pad.args) > 2 else "constant"
        value = pad.args[3] if len(pad.args) > 3 else pad.kwargs.get("value")
        if pad.target is aten.constant_pad_nd.default:
            mode, value = "constant", pad.args[2] if len(pad.args) > 2 else 0
        if mode != "constant" or value not in (None, 0) or len(widths) > 4 or min(widths) < 0:
            continue
        left, right, top, bottom = [*widths, 0, 0][:4]
        own = conv.kwargs["padding"]
        padding = [p + q for p, q in zip(own, (top, left, bottom, right), strict=True)]
        conv.kwargs = {**conv.kwargs, "input": pad.args[0], "padding": padding}
    module.graph.eliminate_dead_code()


def _fuse_following_activation(node: fx.Node) -> None:
    user = only_user(node)
    name = activation_of(user)
    if user is not None and name is not None and node.kwargs["activation"] is None:
        node.kwargs = {**node.kwargs, "activation": name}
        user.replace_all_uses_with(node)
        node.graph.erase_node(user)


def fuse_residual_and_activation(module: fx.GraphModule) -> None:
    """conv (+ residual) (+ activation) becomes one node; an add of two others, one residual_add."""
    graph = module.graph
    for node in list(graph.nodes):
        if is_conv(node):
            _fuse_following_activation(node)
    for add in list(graph.nodes):
        if add.target is not aten.add.Tensor or add.kwargs.get("alpha", 1) != 1:
            continue
        if not all(isinstance(side, fx.Node) and "val" in side.meta for side in add.args):
            continue
        left, right = add.args
        images = isinstance(left.meta["val"], Tensor) and isinstance(right.meta["val"], Tensor)
        if not images or shape_of(left) != shape_of(right) or len(shape_of(left)) != 4:
            continue
        if left.meta["val"].dtype != right.meta["val"].dtype:
            continue
        order = {node: index for index, node in enumerate(graph.nodes)}
        hosts = [side for side in (left, right) if _takes_residual(side, add)]
        with graph.inserting_before(add):
            if hosts:
                host = max(hosts, key=order.__getitem__)
                kwargs = {**host.kwargs, "residual": right if host is left else left}
                fused = graph.call_function(host.target, kwargs=kwargs)
            else:
                target = torch.ops.fastconv.residual_add.default
                kwargs = {"input": left, "residual": right, "activation": None}
                fused = graph.call_function(target, kwargs=kwargs)
        fused.meta = dict(add.meta)
        add.replace_all_uses_with(fused)
        graph.erase_node(add)
        _fuse_following_activation(fused)
    graph.eliminate_dead_code()


def _takes_residual(node: fx.Node, add: fx.Node) -> bool:
    return (
        is_conv(node)
        and is_pointwise_node(node)
        and node.kwargs["residual"] is None
        and node.kwargs["activation"] is None
        and list(node.users) == [add]
        and add.args[0] is not add.args[1]
    )
