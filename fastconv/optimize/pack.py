"""Weights in the memory order that their kernels read."""

import torch
from torch import Tensor, fx

from fastconv.ops import (
    pack_depthwise_weight,
    pack_pointwise_pairs,
    pack_pointwise_weight,
    pack_stem_weight,
)
from fastconv.optimize.capture import constant, read_buffer
from fastconv.optimize.conv import is_depthwise_node, is_pointwise_node, is_stem_node


def pack_weight(
    module: fx.GraphModule, conv: fx.Node, dtype: torch.dtype | None, for_torch: bool = False
) -> None:
    """Packs the weight of a convolution that will compute in dtype, where it is a constant."""
    read = conv.kwargs["weight"]
    weight = constant(module, read)
    if weight is None:
        return
    assert isinstance(read, fx.Node)
    if for_torch:
        setattr(module, str(read.target), _channels_last(weight))
    elif is_pointwise_node(conv) and (dtype or weight.dtype) == torch.bfloat16 and weight.is_cpu:
        # A buffer of its own: the values are others, and the weight may have other readers.
        packed = read_buffer(
            module, conv, str(read.target), pack_pointwise_pairs(weight.bfloat16())
        )
        packed.meta = dict(read.meta)
        conv.kwargs = {**conv.kwargs, "weight": packed}
    elif is_pointwise_node(conv):
        setattr(module, str(read.target), pack_pointwise_weight(weight))
    elif is_depthwise_node(conv):
        setattr(module, str(read.target), pack_depthwise_weight(weight))
    elif is_stem_node(conv):
        setattr(module, str(read.target), pack_stem_weight(weight))
    else:
        setattr(module, str(read.target), _channels_last(weight))


def _channels_last(weight: Tensor) -> Tensor:
    # oneDNN's own packed tensors were no faster on the stems of the networks here, and can be
    # neither copied nor pickled.
    return weight.contiguous(memory_format=torch.channels_last)
