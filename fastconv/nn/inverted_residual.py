"""The inverted residual block as a layer."""

from torch import Tensor, nn

from fastconv import ops
from fastconv.nn.depthwise_conv2d import DepthwiseConv2d
from fastconv.nn.pointwise_conv2d import PointwiseConv2d
from fastconv.nn.squeeze_excitation import SqueezeExcitation


class InvertedResidual(nn.Module):
    """Expand, depthwise and project of a mobile block; see :func:`fastconv.ops.inverted_residual`.

    The parts are the layers `expand`, `depthwise` and `project`, without batch norms: this is a
    block whose norms are folded. The input is added where it has the shape of the output; padding
    keeps the size at stride 1. With `squeeze` the hidden channels are weighed before `project`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        activation: str | None = "relu6",
        squeeze: SqueezeExcitation | None = None,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.expand = PointwiseConv2d(in_channels, hidden_channels, activation=activation)
        self.depthwise = DepthwiseConv2d(
            hidden_channels, kernel_size, stride, padding, activation=activation
        )
        self.squeeze = squeeze
        self.project = PointwiseConv2d(hidden_channels, out_channels)
        self.residual = stride == 1 and in_channels == out_channels and kernel_size % 2 == 1

    def forward(self, input: Tensor) -> Tensor:
        return ops.inverted_residual(
            input,
            *(self.expand.weight, self.expand.bias),
            *(self.depthwise.weight, self.depthwise.bias),
            *(self.project.weight, self.project.bias),
            self.depthwise.stride,
            self.depthwise.padding,
            self.depthwise.activation,
            self.residual,
            None if self.squeeze is None else self.squeeze.weights(),
        )
