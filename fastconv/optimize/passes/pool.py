"""Pooling by ops of ours."""

from typing import Any

import torch
from torch import fx

from fastconv.ops._window import pair
from fastconv.optimize.conv import arguments_of, shape_of

aten = torch.ops.aten


def pool(module: fx.GraphModule) -> None:
    """Max pooling, and the mean over all pixels in either way to write it, become ops of ours,
    unless a race chose torch's."""
    for node in list(module.graph.nodes):
        if node.meta.get("way") == "torch":
            continue
        if _is_mean(node):
            if is_mean_of_pixels(node) and (len(node.args) == 2 or not node.args[2]):
                _keep_pixel(module, node)
            node.target = torch.ops.fastconv.global_avg_pool2d.default
            node.args = node.args[:1]
        elif _is_max(node):
            given = arguments_of(node)
            names = ("kernel_size", "stride", "padding")
            given["stride"] = given["stride"] or given["kernel_size"]
            window = [list(pair("max_pool2d", name, given[name])) for name in names]
            node.target = torch.ops.fastconv.max_pool2d.default
            node.args, node.kwargs = (given["self"], *window, given["ceil_mode"]), {}


def is_pool(node: fx.Node) -> bool:
    """Whether an op of ours does what node does."""
    return _is_mean(node) or _is_max(node)


def _is_mean(node: fx.Node) -> bool:
    if node.target is aten.adaptive_avg_pool2d.default:
        return list(node.args[1]) == [1, 1] and len(shape_of(node.args[0])) == 4  # type: ignore
    return is_mean_of_pixels(node)


def _is_max(node: fx.Node) -> bool:
    if node.target is not aten.max_pool2d.default or len(shape_of(node.args[0])) != 4:
        return False
    return pair("max_pool2d", "dilation", arguments_of(node)["dilation"]) == (1, 1)


def is_mean_of_pixels(node: fx.Node) -> bool:
    """Whether node is the mean of an image over all its pixels, which it keeps or drops."""
    if node.target is not aten.mean.dim or node.kwargs or len(shape_of(node.args[0])) != 4:
        return False
    dims: Any = node.args[1]
    return sorted(dim % 4 for dim in dims) == [2, 3]


def _keep_pixel(module: fx.GraphModule, mean: fx.Node) -> None:
    """The mean as (N, C, 1, 1), which what follows flattens."""
    value = mean.meta["val"]
    with module.graph.inserting_after(mean):
        flat = module.graph.call_function(aten.flatten.using_ints, (mean, 1))
    flat.meta = dict(mean.meta)
    mean.replace_all_uses_with(flat, delete_user_cb=lambda user: user is not flat)
    mean.meta = {**mean.meta, "val": value[:, :, None, None]}
