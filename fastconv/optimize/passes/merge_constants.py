"""Weights that are there twice."""

import torch
from torch import Tensor, fx


def merge_constants(module: fx.GraphModule) -> None:
    """Equal constants become one: those of a layer called at two places, folded at each."""
    kept: dict[tuple, list[fx.Node]] = {}
    for node in list(module.graph.nodes):
        value = getattr(module, str(node.target), None) if node.op == "get_attr" else None
        if not isinstance(value, Tensor):
            continue
        alike = kept.setdefault((value.shape, value.stride(), value.dtype), [])
        for other in alike:
            if torch.equal(getattr(module, str(other.target)), value):
                node.target = other.target
                break
        else:
            alike.append(node)
