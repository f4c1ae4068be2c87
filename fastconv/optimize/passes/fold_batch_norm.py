"""Batch norms become part of the layer before them, or of the convolution after them."""

import operator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from fastconv.optimize.capture import constant, read_buffer
from fastconv.optimize.conv import conv2d, is_conv, layer_of, only_user

aten = torch.ops.aten

# The axis of the output channels in the weight of each layer that a norm may follow, and where its
# bias stands among the arguments.
_OUTPUT_AXIS = {
    conv2d: 0,
    aten.linear.default: 0,
    aten.conv1d.default: 0,
    aten.conv3d.default: 0,
    aten.conv_transpose1d.default: 1,
    aten.conv_transpose2d.input: 1,
    aten.conv_transpose3d.input: 1,
}


class Scaling(NamedTuple):
    """What a batch norm does to each channel, in float64: input * scale + shift."""

    scale: Tensor
    shift: Tensor


def fold_batch_norm(module: fx.GraphModule) -> None:
    """layer -> norm and norm -> convolution become one layer (Ioffe & Szegedy 2015, section 3.1).

    After a layer, of any dimensions, depthwise and transposed ones too: w' = w * scale,
    b' = b * scale + shift. Before a convolution: w' = w * scale and b' = b + w shift, which is
    exact where no pixel is padding, for padding is zero after the norm. In float64.
    """
    for norm in list(module.graph.nodes):
        if norm.target is not aten._native_batch_norm_legit_no_training.default:
            continue
        output, scaling = only_user(norm), _scaling(module, norm)
        if output is None or output.target is not operator.getitem or output.args[1] != 0:
            continue
        if scaling is not None and not _fold_back(module, norm, output, scaling):
            _fold_forward(module, norm, output, scaling)
    module.graph.eliminate_dead_code()


def _scaling(module: fx.GraphModule, norm: fx.Node) -> Scaling | None:
    """None where a tensor of the norm is computed."""
    tensors, eps = norm.args[1:5], float(norm.args[6])  # type: ignore[arg-type]
    values = [None if node is None else constant(module, node) for node in tensors]
    if any(v is None and node is not None for v, node in zip(values, tensors, strict=True)):
        return None
    gamma, beta, mean, var = values
    assert mean is not None
    assert var is not None
    scale = 1 / (var.double() + eps).sqrt()
    scale = scale if gamma is None else scale * gamma
    shift = -mean.double() * scale
    return Scaling(scale, shift if beta is None else shift + beta)


def _fold_back(module: fx.GraphModule, norm: fx.Node, output: fx.Node, scaling: Scaling) -> bool:
    layer: Any = norm.args[0]
    if layer.target not in _OUTPUT_AXIS or only_user(layer) is not norm or not _is_plain(layer):
        return False
    weight, bias = _weights(module, layer)
    axis = _OUTPUT_AXIS[layer.target]
    if weight is None or (axis == 1 and weight.shape[1] != len(scaling.scale)):  # grouped
        return False
    if layer.meta["val"].dim() != weight.dim():  # channels that are not those of the norm
        return False
    if bias is not None and constant(module, _argument(layer, "bias", 2)) is None:
        return False
    along = [-1 if dim == axis else 1 for dim in range(weight.dim())]
    shift = scaling.shift if bias is None else scaling.shift + bias * scaling.scale
    _set_weights(module, layer, weight * scaling.scale.view(along), shift)
    layer.meta.setdefault("folded", []).append(layer_of(norm))
    output.replace_all_uses_with(layer)
    return True


def _fold_forward(module: fx.GraphModule, norm: fx.Node, output: fx.Node, scaling: Scaling) -> None:
    conv = only_user(output)
    if conv is None or not is_conv(conv) or conv.kwargs["residual"] is output:
        return
    weight, bias = _weights(module, conv)
    if weight is None or any(conv.kwargs["padding"]):  # type: ignore[arg-type]
        return
    if conv.kwargs["bias"] is not None and bias is None:
        return
    groups: Any = conv.kwargs["groups"]
    out_channels, channels, *window = weight.shape
    grouped = weight.double().view(groups, out_channels // groups, channels, *window)
    scale, shift = (values.view(groups, 1, channels, 1, 1) for values in scaling)
    added = (grouped * shift).sum((2, 3, 4)).flatten()
    _set_weights(
        module, conv, (grouped * scale).view_as(weight), added if bias is None else added + bias
    )
    conv.meta.setdefault("folded", []).append(layer_of(norm))
    output.replace_all_uses_with(norm.args[0])  # type: ignore[arg-type]


def _is_plain(layer: fx.Node) -> bool:
    """Whether nothing else happens in a layer of ours before its result."""
    return layer.kwargs.get("activation") is None and layer.kwargs.get("residual") is None


def _argument(layer: fx.Node, name: str, place: int) -> Any:
    if layer.target is conv2d:
        return layer.kwargs[name]
    return layer.args[place] if len(layer.args) > place else None


def _weights(module: fx.GraphModule, layer: fx.Node) -> tuple[Tensor | None, Tensor | None]:
    arguments = (_argument(layer, "weight", 1), _argument(layer, "bias", 2))
    weight, bias = (constant(module, node) for node in arguments)
    return weight, bias


def _set_weights(module: fx.GraphModule, layer: fx.Node, weight: Tensor, bias: Tensor) -> None:
    name = str(_argument(layer, "weight", 1).target).removesuffix("_folded")
    before = constant(module, _argument(layer, "weight", 1))
    assert before is not None
    reads = [
        read_buffer(module, layer, f"{stem}_folded", value.to(before.dtype))
        for stem, value in ((name, weight), (name.removesuffix("weight") + "bias", bias))
    ]
    if layer.target is conv2d:
        layer.kwargs = {**layer.kwargs, "weight": reads[0], "bias": reads[1]}
    else:
        layer.args = (layer.args[0], *reads, *layer.args[3:])
