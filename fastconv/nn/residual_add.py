"""The residual add as a layer."""

from torch import Tensor, nn

from fastconv import ops


class ResidualAdd(nn.Module):
    """activation(input + residual); see :func:`fastconv.ops.residual_add`."""

    def __init__(self, activation: str | None = "relu") -> None:
        super().__init__()
        self.activation = activation

    def forward(self, input: Tensor, residual: Tensor) -> Tensor:
        return ops.residual_add(input, residual, self.activation)

    def extra_repr(self) -> str:
        return f"activation={self.activation!r}"
