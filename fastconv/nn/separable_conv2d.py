"""The depthwise separable convolution as a layer."""

from torch import Tensor, nn

from fastconv import ops
from fastconv.nn.depthwise_conv2d import DepthwiseConv2d
from fastconv.nn.pointwise_conv2d import PointwiseConv2d
from fastconv.nn.squeeze_excitation import SqueezeExcitation


class SeparableConv2d(nn.Module):
    """Depthwise, then pointwise; see :func:`fastconv.ops.separable_conv2d`.

    The parts are the layers `depthwise` and `pointwise`, without batch norms: this is a block whose
    norms are folded. With `squeeze` the channels are weighed between them.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        activation: str | None = "relu",
        pointwise_activation: str | None = "relu",
        squeeze: SqueezeExcitation | None = None,
    ) -> None:
        super().__init__()
        window = (kernel_size, stride, padding, dilation)
        self.depthwise = DepthwiseConv2d(in_channels, *window, activation=activation)
        self.squeeze = squeeze
        self.pointwise = PointwiseConv2d(in_channels, out_channels, activation=pointwise_activation)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        return ops.separable_conv2d(
            input,
            *(self.depthwise.weight, self.depthwise.bias),
            *(self.pointwise.weight, self.pointwise.bias),
            residual,
            self.depthwise.stride,
            self.depthwise.padding,
            self.depthwise.dilation,
            self.depthwise.activation,
            self.pointwise.activation,
            None if self.squeeze is None else self.squeeze.weights(),
        )
