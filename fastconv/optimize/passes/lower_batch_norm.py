"""Batch norms that could not be folded."""

import operator
from typing import Any

import torch
from torch import fx

from fastconv.optimize.capture import constant
from fastconv.optimize.conv import activation_of, layer_of, only_user
from fastconv.optimize.receipt import row

aten = torch.ops.aten


def lower_batch_norm(module: fx.GraphModule, dtype: torch.dtype | None) -> None:
    """A norm that stays, in float32 or float64, becomes one op with the activation after it.

    1.7 to 2.7 times as fast as torch's with a ReLU after it, channels_last, 1 x 16 x 224 x 224 to
    16 x 64 x 56 x 56, on one core of a Zen 5; by a depthwise convolution of one pixel 0.5 to 1.6.
    """
    for norm in list(module.graph.nodes):
        if norm.target is not aten._native_batch_norm_legit_no_training.default:
            continue
        input, gamma, beta, mean, var, _, eps = norm.args
        output = only_user(norm)
        computes_in = dtype or input.meta["val"].dtype
        stats = constant(module, mean)
        if output is None or output.args[1:] != (0,) or stats is None:
            continue
        if (
            computes_in not in (torch.float32, torch.float64)
            or stats.dtype != input.meta["val"].dtype
        ):
            continue
        activation = activation_of(only_user(output))
        last: Any = output if activation is None else only_user(output)
        with module.graph.inserting_before(norm):
            target = torch.ops.fastconv.batch_norm.default
            arguments = (input, gamma, beta, mean, var, eps, activation)
            three = module.graph.call_function(target, arguments)
            new = module.graph.call_function(operator.getitem, (three, 0))
        new.meta = dict(last.meta)
        three.meta["receipt"] = row(
            layer_of(norm),
            "batch_norm",
            activation=activation,
            reason="not next to a convolution that could take it in",
        )
        last.replace_all_uses_with(new)
    module.graph.eliminate_dead_code()
