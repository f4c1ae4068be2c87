"""Linear layers between pooled pixels, as squeeze-and-excitations have them."""

from typing import Any, cast

import torch
from torch import fx

from fastconv.optimize.capture import constant, read_buffer
from fastconv.optimize.conv import activation_of, conv2d, shape_of
from fastconv.optimize.passes.pool import is_mean_of_pixels

aten = torch.ops.aten

RESHAPES = (
    aten.view.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.slice.Tensor,
)
_GATES = (aten.sigmoid.default, aten.hardsigmoid.default)


def lift_rows(module: fx.GraphModule) -> None:
    """Rows (N, C) that become pixels (N, C, 1, 1) were pixels before: linear layers in between
    become 1x1 convolutions, and what only reshapes goes.

    Runs after convolutions have their form. Rows that stay rows, of a classifier, are left alone.
    """
    for node in list(module.graph.nodes):
        if node.target in RESHAPES and _is_pixel(node) and len(shape_of(node.args[0])) != 4:
            _lift(module, node)
    module.graph.eliminate_dead_code()


def _lift(module: fx.GraphModule, end: fx.Node) -> None:
    chain: list[fx.Node] = []
    node: Any = end.args[0]
    while not _is_pooled(node):
        if not _passes_on(module, node) or len(node.users) != 1:
            return
        chain.append(node)
        node = node.args[0]
    if not any(step.target is aten.linear.default for step in chain):
        return
    pixels = _as_pixels(module, node)
    for step in reversed(chain):
        if step.target in RESHAPES:
            continue
        with module.graph.inserting_before(end):
            if step.target is aten.linear.default:
                pixels = _convolution(module, step, pixels)
            else:
                value, target = pixels.meta["val"], cast(Any, step.target)
                pixels = module.graph.call_function(target, (pixels, *step.args[1:]))
                pixels.meta = {**step.meta, "val": value}
    end.replace_all_uses_with(pixels)


def _is_pixel(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dim() == 4 and tuple(value.shape[2:]) == (1, 1)


def _is_pooled(node: fx.Node) -> bool:
    """Whether node has a value a channel, as pixels or as the mean of an image that drops them."""
    return _is_pixel(node) or is_mean_of_pixels(node)


def _passes_on(module: fx.GraphModule, node: fx.Node) -> bool:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.dim() < 2:
        return False
    if node.target is aten.linear.default:
        weight = constant(module, node.args[1])
        return value.dim() == 2 and weight is not None and weight.dim() == 2
    if node.target in RESHAPES:
        source: Any = node.args[0]
        return list(source.meta["val"].shape[:2]) == list(value.shape[:2])
    return activation_of(node) is not None or node.target in _GATES


def _as_pixels(module: fx.GraphModule, node: fx.Node) -> fx.Node:
    if _is_pixel(node):
        return node
    with module.graph.inserting_after(node):
        mean = module.graph.call_function(aten.mean.dim, (node.args[0], [2, 3], True))
    mean.meta = {**node.meta, "val": node.meta["val"][:, :, None, None]}
    return mean


def _convolution(module: fx.GraphModule, linear: fx.Node, pixels: fx.Node) -> fx.Node:
    weight: Any = linear.args[1]
    matrix = constant(module, weight)
    assert matrix is not None
    kwargs = {
        "input": pixels,
        "weight": read_buffer(module, linear, str(weight.target), matrix[:, :, None, None]),
        "bias": linear.args[2] if len(linear.args) > 2 else None,
        "residual": None,
        "stride": [1, 1],
        "padding": [0, 0, 0, 0],
        "dilation": [1, 1],
        "groups": 1,
        "activation": None,
    }
    new = module.graph.call_function(conv2d, kwargs=kwargs)
    new.meta = {**linear.meta, "val": linear.meta["val"][:, :, None, None]}
    return new
