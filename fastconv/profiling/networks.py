"""The two sides of a profile: the model as torch runs it, and what fastconv makes of it."""

import copy
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

import fastconv
from fastconv.cost.meter import tensors
from fastconv.optimize.module import OptimizedModule
from fastconv.profiling.subject import Subject


def optimized(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[nn.Module, str]:
    """The model optimized for these inputs, and why it was not rewritten as a whole, else ''.

    On a GPU, where fastconv.optimize never ran, the layers are swapped if it fails there.
    """
    try:
        network = fastconv.optimize(model, inputs, measure=False)  # which runs and compares
    except Exception as error:
        if all(tensor.is_cpu for tensor in tensors(inputs)):
            raise
        reason = f"fastconv.optimize failed on the GPU: {type(error).__name__}: {error}"
        return fastconv.swap_(copy.deepcopy(model)), reason.partition("\n")[0]
    if isinstance(network, OptimizedModule):
        return network, ""
    receipt: Any = network.receipt
    return network, receipt[0]["reason"]


def side_of(subject: Subject, side: str, channels_last: bool) -> tuple[nn.Module, tuple[Any, ...]]:
    """The network of a side, 'torch' or 'fastconv', and its inputs, torch's in its layout."""
    model, inputs = subject.model, subject.inputs
    if side == "fastconv":
        return optimized(model, inputs)[0], inputs
    if channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        inputs = pytree.tree_map(in_channels_last, inputs)
    return model, inputs


def in_channels_last(value: Any) -> Any:
    images = isinstance(value, Tensor) and value.dim() == 4
    return value.contiguous(memory_format=torch.channels_last) if images else value
