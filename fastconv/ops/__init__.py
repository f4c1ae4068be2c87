"""The ops as functions, arguments named as in torch.nn.functional."""

from torch import fx as _fx

from fastconv.ops.batch_norm import batch_norm
from fastconv.ops.conv1d import conv1d
from fastconv.ops.conv2d import conv2d
from fastconv.ops.dense_conv2d import dense_conv2d, pack_dense_weight, pack_winograd_weight
from fastconv.ops.depthwise_conv1d import depthwise_conv1d
from fastconv.ops.depthwise_conv2d import depthwise_conv2d, pack_depthwise_weight
from fastconv.ops.global_avg_pool2d import global_avg_pool2d
from fastconv.ops.inverted_residual import inverted_residual
from fastconv.ops.local_response_norm import local_response_norm
from fastconv.ops.max_pool2d import max_pool2d
from fastconv.ops.pointwise_conv2d import (
    pack_pointwise_pairs,
    pack_pointwise_panels,
    pack_pointwise_weight,
    pointwise_conv2d,
)
from fastconv.ops.residual_add import residual_add
from fastconv.ops.separable_conv2d import separable_conv2d
from fastconv.ops.squeeze_excitation import SqueezeExcitation, squeeze_excitation
from fastconv.ops.stem_conv2d import pack_stem_weight, stem_conv2d

__all__ = [
    "SqueezeExcitation",
    "batch_norm",
    "conv1d",
    "conv2d",
    "dense_conv2d",
    "depthwise_conv1d",
    "depthwise_conv2d",
    "global_avg_pool2d",
    "inverted_residual",
    "local_response_norm",
    "max_pool2d",
    "pack_dense_weight",
    "pack_depthwise_weight",
    "pack_pointwise_pairs",
    "pack_pointwise_panels",
    "pack_pointwise_weight",
    "pack_stem_weight",
    "pack_winograd_weight",
    "pointwise_conv2d",
    "residual_add",
    "separable_conv2d",
    "squeeze_excitation",
    "stem_conv2d",
]

for _name in __all__:
    if _name != "SqueezeExcitation" and not _name.startswith("pack_"):
        _fx.wrap(_name)  # one node of a graph by torch.fx.symbolic_trace, as torch's own are
