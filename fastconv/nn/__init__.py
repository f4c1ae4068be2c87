"""The ops as layers: torch's constructors, state_dict keys and repr, our kernels."""

from fastconv.nn.pointwise_conv2d import PointwiseConv2d
from fastconv.nn.residual_add import ResidualAdd

__all__ = ["PointwiseConv2d", "ResidualAdd"]
