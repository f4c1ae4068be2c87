"""The depthwise separable convolution as a layer."""

from torch import Tensor, nn

from fastconv import ops
from fastconv.nn.depthwise_conv2d import DepthwiseConv2d
from fastconv.nn.pointwise_conv2d import PointwiseConv2d


class SeparableConv2d(nn.Module):
    """Depthwise, then pointwise; see :func:`fastconv.ops.separable_conv2d`.

    The parts are the layers `depthwise` and `pointwise`, without batch norms: this is a block whose
    norms are folded.
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
    ) -> None:
        super().__init__()
        window = (kernel_size, stride, padding, dilation)
        self.depthwise = DepthwiseConv2d(in_channels, *window, activation=activation)
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
        )
