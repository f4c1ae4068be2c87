"""The ops as functions, arguments named as in torch.nn.functional."""

from fastconv.ops.pointwise_conv2d import pack_pointwise_weight, pointwise_conv2d
from fastconv.ops.residual_add import residual_add

__all__ = ["pack_pointwise_weight", "pointwise_conv2d", "residual_add"]
