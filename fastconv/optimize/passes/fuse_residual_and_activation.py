"""What follows a convolution elementwise: a residual, an activation."""

import torch
from torch import Tensor, fx

from fastconv.optimize.conv import activation_of, is_conv, is_pointwise_node, only_user, shape_of

aten = torch.ops.aten


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
                fused.meta = {**host.meta, "val": add.meta["val"]}
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
