"""Weights in the memory order that their kernels read."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, fx

from fastconv import _C
from fastconv.ops import (
    pack_dense_weight,
    pack_depthwise_weight,
    pack_pointwise_pairs,
    pack_pointwise_panels,
    pack_pointwise_weight,
    pack_stem_weight,
    pack_winograd_weight,
)
from fastconv.ops.dense_conv2d import PANEL
from fastconv.optimize.capture import constant, read_buffer
from fastconv.optimize.conv import (
    is_dense_node,
    is_depthwise_node,
    is_pointwise_node,
    is_stem_node,
)
from fastconv.packed_weights import unpack_dense, unpack_pointwise

# By what meta["winograd"] of a dense convolution says.
_DENSE_ORDERS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: pack_dense_weight,
    "in panels": partial(pack_winograd_weight, at_points=False),
    "at points": pack_winograd_weight,
}


def pack_weight(
    module: fx.GraphModule,
    conv: fx.Node,
    dtype: torch.dtype | None,
    for_torch: bool = False,
    in_panels: bool = True,
) -> None:
    """Packs the weight of a convolution that will compute in dtype, where it is a constant.

    in_panels: whether what reads a 1x1 weight takes it as pack_pointwise_panels gives it.
    """
    read = conv.kwargs["weight"]
    weight = constant(module, read)
    if weight is None:
        return
    assert isinstance(read, fx.Node)
    if for_torch:
        setattr(module, str(read.target), _channels_last(weight))
    elif is_pointwise_node(conv) and (pack := _pointwise_order(weight, dtype, in_panels)):
        _read_packed(module, conv, read, pack)
    elif is_pointwise_node(conv):
        setattr(module, str(read.target), pack_pointwise_weight(weight))
    elif is_depthwise_node(conv):
        setattr(module, str(read.target), pack_depthwise_weight(weight))
    elif is_stem_node(conv):
        setattr(module, str(read.target), pack_stem_weight(weight))
    elif is_dense_node(conv) and dtype in (None, torch.float32):
        # Without a bias to count them, a last panel must be full.
        if conv.kwargs["bias"] is not None or weight.shape[0] % PANEL == 0:
            pack = _DENSE_ORDERS[conv.meta.get("winograd")]
            _read_packed(module, conv, read, lambda w: _in_huge_pages(pack(w)))
    else:
        setattr(module, str(read.target), _channels_last(weight))


def _read_packed(
    module: fx.GraphModule, conv: fx.Node, read: fx.Node, pack: Callable[[Tensor], Tensor]
) -> None:
    """Has conv read the packed weight from a buffer of its own, which other convs share.

    Its shape is another, and the weight may have readers that take it as it is.
    """
    source = str(read.target)
    packed_of = (source, conv.meta.get("winograd"))
    reads = module.graph.find_nodes(op="get_attr", sort=False)
    known = next((node for node in reads if node.meta.get("packed_of") == packed_of), None)
    if known is None:
        packed = read_buffer(module, conv, source, pack(getattr(module, source)))
    else:
        with module.graph.inserting_before(conv):
            packed = module.graph.get_attr(str(known.target))
    packed.meta = {**read.meta, "packed_of": packed_of}
    conv.kwargs = {**conv.kwargs, "weight": packed}


def unpack_elsewhere(module: fx.GraphModule) -> None:
    """Weights in panels that left the CPU, or float32, in the order that the kernels there read."""
    for read in module.graph.find_nodes(op="get_attr", sort=False):
        name = str(read.target)
        weight = getattr(module, name, None)
        of_ours = [user for user in read.users if str(user.target).startswith("fastconv.")]
        if not isinstance(weight, Tensor) or not of_ours or _is_float32_here(weight):
            continue
        if weight.dim() == 3 and weight.shape[0] == 1:
            setattr(module, name, pack_pointwise_weight(unpack_pointwise(weight, weight)))
        elif weight.dim() in (5, 6):
            bias = constant(module, of_ours[0].args[2])
            if bias is not None or of_ours[0].args[2] is None:  # else panels tell no width
                setattr(module, name, _channels_last(unpack_dense(weight, bias)))


def _is_float32_here(weight: Tensor) -> bool:
    return weight.is_cpu and weight.dtype == torch.float32


def _pointwise_order(
    weight: Tensor, dtype: torch.dtype | None, in_panels: bool
) -> Callable[[Tensor], Tensor] | None:
    """What brings a 1x1 weight to an order that only our kernels read, where one will."""
    computes_in = dtype or weight.dtype
    if computes_in == torch.bfloat16 and weight.is_cpu:
        return lambda w: pack_pointwise_pairs(w.bfloat16())
    floats = computes_in == torch.float32 and _is_float32_here(weight)
    return pack_pointwise_panels if floats and in_panels else None


def _in_huge_pages(weight: Tensor) -> Tensor:
    """weight in memory of its own that is advised to have huge pages.

    ResNet-50's 3x3 layers at batch 1, one after the other, their weights in no cache nearer than
    the third: 12.6 ms without and 12.0 ms with it (two threads, an Intel Xeon with AMX).
    """
    if not weight.is_cpu:
        return weight
    fresh = torch.empty_like(weight)
    _C.advise_huge_pages(fresh.data_ptr(), fresh.numel() * fresh.element_size())
    return fresh.copy_(weight)


def _channels_last(weight: Tensor) -> Tensor:
    # oneDNN's own packed tensors were no faster on the stems of the networks here, and can be
    # neither copied nor pickled.
    return weight.contiguous(memory_format=torch.channels_last)
