"""Linear layers: few rows of features against a large matrix, as a classifier has them."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fastconv.optimize.capture import constant, read_buffer
from fastconv.optimize.conv import activation_of, layer_of, only_user, shape_of
from fastconv.optimize.receipt import row
from fastconv.reference import activate

aten = torch.ops.aten

# Rows that pointwise_conv2d multiplies by a matrix which passes from memory once. Of the 151 MB of
# AlexNet's first linear layer that is 80 to 90 GB/s on 2 threads of a Zen 5, of torch's 34.
MOST_ROWS = 16


class Linear(nn.Module):
    """activation(linear(input)) of (N, C) or (N, C, 1, 1); weight (O, C, 1, 1), result (N, O)."""

    def __init__(self, activation: str | None) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = input.shape[0]
        few = type(rows) is int and rows <= MOST_ROWS  # an exported program's open batch is neither
        if not few:
            output = F.linear(input.flatten(1), weight.flatten(1), bias)
            return activate(output, self.activation)
        pixels = input if input.dim() == 4 else input[:, :, None, None]
        return torch.ops.fastconv.pointwise_conv2d.default(
            pixels, weight, bias, None, (1, 1), self.activation
        ).flatten(1)


def lower_linear(module: fx.GraphModule) -> None:
    """Every linear layer over a batch of rows becomes a Linear, its activation fused, unless a race
    chose torch's.

    What flattened one pixel an image before it is left out. A new node has its row of the receipt
    in meta["receipt"].
    """
    for node in list(module.graph.nodes):
        if not is_linear(module, node) or node.meta.get("way") == "torch":
            continue
        input, read, *bias = node.args
        weight = constant(module, read)
        assert weight is not None
        user = only_user(node)
        activation = activation_of(user)
        last: fx.Node = node if user is None or activation is None else user
        name = f"{node.name}_linear"
        module.add_submodule(name, Linear(activation))
        matrix = read_buffer(module, node, str(read.target), weight[:, :, None, None])
        arguments = (_one_pixel(input), matrix, bias[0] if bias else None)
        with module.graph.inserting_before(node):
            lowered = module.graph.call_module(name, arguments)
        lowered.meta = dict(node.meta)
        lowered.meta["receipt"] = row(
            layer_of(node),
            "pointwise_conv2d",
            weight=list(weight.shape),
            activation=activation,
            folded=node.meta.get("folded"),
            reason=f"up to {MOST_ROWS} rows, torch's for more",
            measured=node.meta.get("measured"),
        )
        last.replace_all_uses_with(lowered)
    module.graph.eliminate_dead_code()


def is_linear(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether node is a linear layer over a batch of rows, its weight known."""
    if node.target is not aten.linear.default or len(shape_of(node.args[0])) != 2:
        return False
    weight = constant(module, node.args[1])
    return weight is not None and weight.dim() == 2


def _one_pixel(rows: Any) -> Any:
    """What is (N, C, 1, 1) before rows flatten it, else rows."""
    if rows.target not in (aten.view.default, aten.reshape.default, aten.flatten.using_ints):
        return rows
    shape = shape_of(rows.args[0])
    return rows.args[0] if len(shape) == 4 and tuple(shape[2:]) == (1, 1) else rows
