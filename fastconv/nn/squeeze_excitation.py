"""Squeeze-and-excitation as a layer, alone or within a block."""

from torch import Tensor, nn

from fastconv import ops, reference
from fastconv.nn.pointwise_conv2d import PointwiseConv2d


class SqueezeExcitation(nn.Module):
    """Channels weighed by what all of them hold; see :func:`fastconv.ops.squeeze_excitation`.

    As the argument `squeeze` of :class:`InvertedResidual` and :class:`SeparableConv2d` it is done
    in the pass of the block.
    """

    def __init__(
        self,
        channels: int,
        squeezed_channels: int,
        activation: str | None = "relu",
        gate: str = "sigmoid",
    ) -> None:
        super().__init__()
        reference.check_gate(gate)
        self.reduce = PointwiseConv2d(channels, squeezed_channels, activation=activation)
        self.expand = PointwiseConv2d(squeezed_channels, channels)
        self.gate = gate

    def weights(self) -> ops.SqueezeExcitation:
        """What the ops take."""
        return ops.SqueezeExcitation(
            *(self.reduce.weight, self.reduce.bias),
            *(self.expand.weight, self.expand.bias),
            self.reduce.activation,
            self.gate,
        )

    def forward(self, input: Tensor) -> Tensor:
        return ops.squeeze_excitation(input, self.weights())

    def extra_repr(self) -> str:
        return f"gate={self.gate!r}"
