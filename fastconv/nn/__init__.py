"""The ops as layers: torch's constructors, state_dict keys and repr, our kernels."""

from fastconv.nn.batch_norm import BatchNorm2d
from fastconv.nn.conv1d import Conv1d
from fastconv.nn.conv2d import Conv2d
from fastconv.nn.dense_conv2d import DenseConv2d
from fastconv.nn.depthwise_conv1d import DepthwiseConv1d
from fastconv.nn.depthwise_conv2d import DepthwiseConv2d
from fastconv.nn.global_avg_pool2d import GlobalAvgPool2d
from fastconv.nn.inverted_residual import InvertedResidual
from fastconv.nn.local_response_norm import LocalResponseNorm
from fastconv.nn.max_pool2d import MaxPool2d
from fastconv.nn.pointwise_conv2d import PointwiseConv2d
from fastconv.nn.residual_add import ResidualAdd
from fastconv.nn.separable_conv2d import SeparableConv2d
from fastconv.nn.squeeze_excitation import SqueezeExcitation
from fastconv.nn.stem_conv2d import StemConv2d

__all__ = [
    "BatchNorm2d",
    "Conv1d",
    "Conv2d",
    "DenseConv2d",
    "DepthwiseConv1d",
    "DepthwiseConv2d",
    "GlobalAvgPool2d",
    "InvertedResidual",
    "LocalResponseNorm",
    "MaxPool2d",
    "PointwiseConv2d",
    "ResidualAdd",
    "SeparableConv2d",
    "SqueezeExcitation",
    "StemConv2d",
]
